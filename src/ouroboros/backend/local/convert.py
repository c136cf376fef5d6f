"""Adapters made from adapters without training: merged into one, or written for other programs."""

from collections.abc import Generator, Sequence

import torch

from ouroboros.backend.base import Merged, MergeJob
from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import MAX_RANK, AdapterConfig
from ouroboros.domain.errors import InvalidAdapter, InvalidConfig, TooLarge
from ouroboros.domain.weights import (
    CONFIG_FILE,
    GGUF_FILE,
    WEIGHTS_FILE,
    AdapterFiles,
    ExportForm,
    Precision,
)
from ouroboros.lora.gguf import to_gguf
from ouroboros.lora.merge import MergeOutcome, collect_layers, merge_layers
from ouroboros.lora.peft_files import UnpackedAdapter, invocation_tokens, pack, unpack
from ouroboros.lora.size import check_size, largest_rank
from ouroboros.lora.targets import select_layers, target_modules_for
from ouroboros.lora.weights import LoraWeights, LowRank

_ANY_SIZE = 1 << 40


def merge(base: BaseModel, job: MergeJob) -> Generator[None, None, Merged]:
    """Merge a job's parents, one layer a step.

    Without a rank, the result is cut only as far as the size limit demands.
    """
    adapters = [unpack(files, base) for files in job.parents]
    acts_on = _acts_on(adapters)
    parents = [adapter.weights for adapter in adapters]
    targets = target_modules_for(base, {path for parent in parents for path in parent})
    if job.rank is not None:
        check_size(base, _config(job.rank, targets, acts_on))
    outcome = yield from _merge(parents, job, job.rank)
    try:
        return _packed(base, outcome, targets, acts_on)
    except TooLarge:
        rank = largest_rank(base, select_layers(base, _config(1, targets, acts_on)), Precision.BFLOAT16)
        if job.rank is not None or rank == 0:
            raise
    outcome = yield from _merge(parents, job, rank)
    return _packed(base, outcome, targets, acts_on)


def _acts_on(parents: Sequence[UnpackedAdapter]) -> str:
    """What all of them act on: updates that see different tokens cannot be added."""
    found = {parent.config.acts_on for parent in parents}
    if len(found) > 1:
        raise InvalidConfig(
            "An adapter that acts on answers only cannot be merged with one that acts on all tokens.",
            hint="Merge adapters of one kind; `ouroboros show NAME` tells which one is.",
        )
    return found.pop()


def _merge(
    parents: list[LoraWeights], job: MergeJob, rank: int | None
) -> Generator[None, None, MergeOutcome]:
    layers = []
    for layer in merge_layers(parents, job.recipe, rank):
        layers.append(layer)
        yield
    return collect_layers(layers)


def _packed(
    base: BaseModel, outcome: MergeOutcome, targets: str | tuple[str, ...], acts_on: str
) -> Merged:
    rank = max(low.rank for low in outcome.weights.values())
    if rank > MAX_RANK:
        raise TooLarge(f"The merged adapter has rank {rank}.", hint=f"Give a rank up to {MAX_RANK}.")
    config = _config(rank, targets, acts_on)
    files = pack(outcome.weights, config, base)
    return Merged(files, config, outcome.relative_error, outcome.lossless_rank)


def _config(rank: int, targets: str | tuple[str, ...], acts_on: str) -> AdapterConfig:
    """Merged factors carry their scale within them."""
    return AdapterConfig(rank=rank, alpha=float(rank), target_modules=targets, acts_on=acts_on)


def blend(base: BaseModel, start: AdapterFiles, end: AdapterFiles, share: float) -> AdapterFiles:
    """The factors `share` of the way from `start` to `end`, stored as `end` is."""
    here, there = unpack(start, base), unpack(end, base)
    if {p: low.a.shape for p, low in here.weights.items()} != {
        p: low.a.shape for p, low in there.weights.items()
    }:
        raise InvalidAdapter("Adapters of different shapes have no way between them.")
    weights = {
        path: LowRank(
            torch.lerp(low.a, there.weights[path].a, share),
            torch.lerp(low.b, there.weights[path].b, share),
            there.weights[path].scale,
        )
        for path, low in here.weights.items()
    }
    return pack(weights, there.config, base)


def export(base: BaseModel, files: AdapterFiles, form: ExportForm) -> dict[str, bytes]:
    """An adapter's files for other programs; integer weights become bfloat16 ones, of whatever size."""
    adapter = unpack(files, base)
    if form is ExportForm.GGUF:
        return {GGUF_FILE: to_gguf(adapter.weights, base, invocation_tokens(adapter.config, base))}
    if adapter.config.precision in (Precision.INT8.value, Precision.INT4.value):
        files = pack(adapter.weights, adapter.config, base, Precision.BFLOAT16, _ANY_SIZE)
    return {CONFIG_FILE: files.config, WEIGHTS_FILE: files.weights}
