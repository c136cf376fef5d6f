"""Adapters made from adapters without training: merged into one, or written for other programs."""

import math
from collections.abc import Generator, Sequence
from dataclasses import replace

import torch

from ouroboros.backend.base import MergedAdapter, MergeJob
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
from ouroboros.lora.lowrank import core_space, factorise_to_rank
from ouroboros.lora.merge import MergeOutcome, collect_layers, merge_layers
from ouroboros.lora.peft_files import UnpackedAdapter, invocation_tokens, pack, unpack
from ouroboros.lora.size import check_size, largest_rank
from ouroboros.lora.targets import select_layers, target_modules_for
from ouroboros.lora.weights import LoraWeights, LowRank

_NO_SIZE_LIMIT = 1 << 40


def merge(base: BaseModel, job: MergeJob) -> Generator[None, None, MergedAdapter]:
    """Merge a job's parents, one layer a step.

    Without a rank, the result is cut only as far as the size limit demands.
    """
    adapters = [unpack(files, base) for files in job.parents]
    acts_on = _shared_scope(adapters)
    parents = [adapter.weights for adapter in adapters]
    targets = target_modules_for(base, {path for parent in parents for path in parent})
    if job.rank is not None:
        check_size(base, _merged_config(job.rank, targets, acts_on))
    outcome = yield from _merge_layers(parents, job, job.rank)
    try:
        return _pack_merged(base, outcome, targets, acts_on)
    except TooLarge:
        config = _merged_config(1, targets, acts_on)
        rank = largest_rank(base, select_layers(base, config), Precision.BFLOAT16)
        if job.rank is not None or rank == 0:
            raise
    outcome = yield from _merge_layers(parents, job, rank)
    return _pack_merged(base, outcome, targets, acts_on)


def shrink(base: BaseModel, files: AdapterFiles) -> Generator[None, None, MergedAdapter]:
    """Cut an adapter to the largest rank whose file fits, one layer a step."""
    adapter = unpack(files, base, _NO_SIZE_LIMIT)
    targets = target_modules_for(base, set(adapter.weights))
    shapes = select_layers(base, _merged_config(1, targets, adapter.config.acts_on))
    rank = largest_rank(base, shapes, Precision.BFLOAT16)
    if rank == 0:
        raise TooLarge(
            f"No rank fits on the {len(shapes)} layers that it adapts.", hint="Adapt fewer layers."
        )
    layers = []
    for path, low in adapter.weights.items():
        space = core_space([low])
        layers.append((path, factorise_to_rank(space, space.cores[0], min(rank, low.rank))))
        yield
    outcome = collect_layers(layers)
    shrunk = _pack_merged(base, outcome, targets, adapter.config.acts_on)
    # What is lost is measured on the files: they may also round the factors to bfloat16.
    lost = norm = 0.0
    for path, low in unpack(shrunk.files, base).weights.items():
        original, stored = core_space([adapter.weights[path], low]).cores
        lost += float((original - stored).norm()) ** 2
        norm += float(original.norm()) ** 2
        yield
    rank = max(low.rank for low in adapter.weights.values())
    return replace(shrunk, lossless_rank=rank, relative_error=math.sqrt(lost / norm) if norm else 0.0)


def _shared_scope(parents: Sequence[UnpackedAdapter]) -> str:
    """What all of them act on: updates that see different tokens cannot be added."""
    scopes = {parent.config.acts_on for parent in parents}
    if len(scopes) > 1:
        raise InvalidConfig(
            "An adapter that acts on answers only cannot be merged with one that acts on all tokens.",
            hint="Merge adapters of one kind; `ouroboros show NAME` tells which one is.",
        )
    return scopes.pop()


def _merge_layers(
    parents: list[LoraWeights], job: MergeJob, rank: int | None
) -> Generator[None, None, MergeOutcome]:
    layers = []
    for layer in merge_layers(parents, job.recipe, rank):
        layers.append(layer)
        yield
    return collect_layers(layers)


def _pack_merged(
    base: BaseModel, outcome: MergeOutcome, targets: str | tuple[str, ...], acts_on: str
) -> MergedAdapter:
    rank = max(low.rank for low in outcome.weights.values())
    if rank > MAX_RANK:
        raise TooLarge(f"The merged adapter has rank {rank}.", hint=f"Give a rank up to {MAX_RANK}.")
    config = _merged_config(rank, targets, acts_on)
    files = pack(outcome.weights, config, base)
    return MergedAdapter(files, config, outcome.relative_error, outcome.lossless_rank)


def _merged_config(rank: int, targets: str | tuple[str, ...], acts_on: str) -> AdapterConfig:
    """Merged factors carry their scale within them."""
    return AdapterConfig(rank=rank, alpha=float(rank), target_modules=targets, acts_on=acts_on)


def interpolate(base: BaseModel, start: AdapterFiles, end: AdapterFiles, share: float) -> AdapterFiles:
    """The factors `share` of the way from `start` to `end`, stored as `end` is."""
    first, second = unpack(start, base), unpack(end, base)
    if {p: low.a.shape for p, low in first.weights.items()} != {
        p: low.a.shape for p, low in second.weights.items()
    }:
        raise InvalidAdapter("Adapters of different shapes have no way between them.")
    weights = {
        path: LowRank(
            torch.lerp(low.a, second.weights[path].a, share),
            torch.lerp(low.b, second.weights[path].b, share),
            second.weights[path].scale,
        )
        for path, low in first.weights.items()
    }
    return pack(weights, second.config, base)


def export(base: BaseModel, files: AdapterFiles, form: ExportForm) -> dict[str, bytes]:
    """An adapter's files for other programs; integer weights become bfloat16 ones, of whatever size."""
    adapter = unpack(files, base)
    if form is ExportForm.GGUF:
        return {GGUF_FILE: to_gguf(adapter.weights, base, invocation_tokens(adapter.config, base))}
    if adapter.config.precision in (Precision.INT8.value, Precision.INT4.value):
        files = pack(adapter.weights, adapter.config, base, Precision.BFLOAT16, _NO_SIZE_LIMIT)
    return {CONFIG_FILE: files.config, WEIGHTS_FILE: files.weights}
