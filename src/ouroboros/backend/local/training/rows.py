"""Rows of a training in token ids, with the references and teachers that their losses compare with."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ouroboros.backend.local.forward.packing import compute_output_logprobs, compute_token_logprobs
from ouroboros.backend.local.forward.pass_tokens import (
    least_pass_tokens,
    split_into_passes,
    total_pass_tokens,
)
from ouroboros.backend.local.model.load import BaseRuntime
from ouroboros.backend.local.model.memory_plan import PASS_BYTES, MemoryPlan, plan_memory
from ouroboros.backend.local.model.tokenizer import TokenizedPair
from ouroboros.backend.local.runtime.worker import Steps
from ouroboros.backend.local.training.distillation import Teacher, teacher_topk
from ouroboros.backend.local.training.losses import (
    estimate_kl,
    sum_by_sequence,
)
from ouroboros.domain.data import Row
from ouroboros.domain.losses import Distillation, Loss, Supervised
from ouroboros.domain.training import TrainingProgress
from ouroboros.lora.bank import BankedAdapter


@dataclass(frozen=True)
class TokenizedRow:
    """A row in token ids: one sequence (prompt and output) per output of `source`.

    reference  log-probability of each output under the adapter before training, in nats; empty if the
               first pass of the training computes it.
    teacher    distribution of the teacher at each token of the output, if the loss has a KL term.
    """

    source: Row
    sequences: tuple[TokenizedPair, ...]
    reference: tuple[float, ...] = ()
    teacher: Teacher | None = None

    def __len__(self) -> int:
        return sum(map(len, self.sequences))


@dataclass(frozen=True)
class StepStats:
    """Results of a step's forward passes, computed before the weights change.

    loss          of the step.
    totals        log-probability of each row's outputs, in nats.
    min_logprobs  log-probability of the least likely token in each row's first output.
    """

    loss: float
    totals: list[tuple[float, ...]]
    min_logprobs: list[float]


def tokenize_rows(runtime: BaseRuntime, rows: Sequence[Row]) -> list[TokenizedRow]:
    """Tokenize rows. Raises `TooLong` for a row beyond the context, `InvalidExample` for a bad form."""
    tokenized = []
    for i, row in enumerate(rows, start=1):
        row.check()
        outputs = (runtime.tokenizer.encode_pair(row.prompt, o, f"Row {i}") for o in row.outputs)
        tokenized.append(TokenizedRow(row, tuple(outputs)))
    return tokenized


def plan_token_budget(
    runtime: BaseRuntime,
    adapter: BankedAdapter,
    rows: Sequence[TokenizedRow],
    steps: Sequence[Sequence[int]],
) -> MemoryPlan:
    """Plan passes over `rows` that fit into memory; `steps` has the row indices of each step.

    Raises `OutOfMemory` if a row does not fit even in a pass of its own.
    """
    tokens = [total_pass_tokens(runtime, row.sequences, adapter) for row in rows]
    sequences = [sequence for row in rows for sequence in row.sequences]
    least_tokens = iter(least_pass_tokens(runtime, sequences, adapter))
    sizes = []
    for count, row in zip(tokens, rows, strict=True):
        # A row that shares tokens with the others of its pass has as many labels on fewer tokens.
        least = sum(next(least_tokens) for _ in row.sequences)
        labels = math.ceil(sum(len(s.output) for s in row.sequences) * count / least)
        sizes.append((count, max(map(len, row.sequences)), labels))
    largest_step = max(
        total_pass_tokens(runtime, [s for i in step for s in rows[i].sequences], adapter)
        for step in steps
    )
    preferred = runtime.preferred_tokens
    if runtime.device.type == "cpu":
        pass_bytes = max(PASS_BYTES, runtime.base.parameters * runtime.dtype.itemsize // 2)
        width = max(longest for _, longest, _ in sizes)
        preferred = min(preferred, runtime.memory_costs.tokens_within(pass_bytes, width))
    plan = plan_memory(
        runtime.memory_costs,
        sizes,
        adapter.master.numel(),
        largest_step,
        preferred,
        runtime.free_bytes,
    )
    return replace(plan, first_layer=_first_cached_layer(runtime, adapter, rows, steps))


def _first_cached_layer(
    runtime: BaseRuntime,
    adapter: BankedAdapter,
    rows: Sequence[TokenizedRow],
    steps: Sequence[Sequence[int]],
) -> int:
    """Returns the first adapted layer if caching its inputs pays, else 0.

    It pays if rows are read at least twice on average and the inputs of all rows fit into the cache.
    """
    if runtime.decoder is None or sum(map(len, steps)) < 2 * len({i for step in steps for i in step}):
        return 0
    hidden_bytes = sum(map(len, rows)) * runtime.base.width * runtime.dtype.itemsize
    return (
        runtime.decoder.first_adapted_layer(adapter.paths)
        if hidden_bytes <= runtime.prefix_cache.max_bytes // 2
        else 0
    )


def add_references(
    runtime: BaseRuntime, adapter: BankedAdapter, rows: Sequence[TokenizedRow]
) -> Steps[TrainingProgress, list[TokenizedRow]]:
    """Returns rows with their references, under `adapter` as it is now, and with their teachers."""
    sequences = [s for row in rows if row.source.loss.uses_reference for s in row.sequences]
    logprobs = yield from compute_output_logprobs(runtime, sequences, [adapter] * len(sequences))
    sums = iter([float(output.sum()) for output in logprobs])
    return (yield from add_teachers(runtime, adapter, [_attach_reference(row, sums) for row in rows]))


def add_teachers(
    runtime: BaseRuntime, adapter: BankedAdapter, rows: Sequence[TokenizedRow]
) -> Steps[TrainingProgress, list[TokenizedRow]]:
    """Returns rows with their teachers, for the losses that have one."""
    taught_rows = [row for row in rows if _needs_teacher(row.source.loss)]
    teachers = iter(
        (
            yield from teacher_topk(
                runtime,
                [row.sequences[0] for row in taught_rows],
                [None if row.source.loss == Distillation("base") else adapter for row in taught_rows],
                [isinstance(row.source.loss, Supervised) for row in taught_rows],
            )
        )
    )
    return [
        replace(row, teacher=next(teachers)) if _needs_teacher(row.source.loss) else row for row in rows
    ]


def add_first_pass_references(rows: Sequence[TokenizedRow], stats: StepStats) -> list[TokenizedRow]:
    """Returns rows with the references that the first pass of a training gave, if they have none yet."""
    pairs = zip(rows, stats.totals, strict=True)
    return [row if row.reference else _attach_reference(row, iter(totals)) for row, totals in pairs]


def _attach_reference(row: TokenizedRow, sums: Iterator[float]) -> TokenizedRow:
    """Returns the row with the next of `sums` as references, or with zeros if its loss uses none."""
    uses_reference = row.source.loss.uses_reference
    return replace(row, reference=tuple(next(sums) if uses_reference else 0.0 for _ in row.sequences))


def _needs_teacher(loss: Loss) -> bool:
    return isinstance(loss, Distillation) or (isinstance(loss, Supervised) and loss.non_target_kl > 0)


def copy_start_adapter(
    runtime: BaseRuntime, adapter: BankedAdapter, rows: Sequence[TokenizedRow]
) -> BankedAdapter | None:
    """Returns a copy of the adapter before training, if a loss compares with it at every step."""
    if not any(row.source.loss.uses_batch_kl for row in rows):
        return None
    return adapter.copy()


def estimate_kl_to_start(
    runtime: BaseRuntime, adapter: BankedAdapter, start: BankedAdapter, rows: Sequence[TokenizedRow]
) -> float:
    """Estimate the KL to the start adapter in nats, from each prompt with the previous row's output."""
    sequences = [row.sequences[0] for row in rows if row.source.loss.uses_batch_kl]
    rotated = [
        TokenizedPair(current.prompt, previous.output)
        for current, previous in zip(sequences, [*sequences[-1:], *sequences[:-1]], strict=True)
        if len(current.prompt) + len(previous.output) <= runtime.base.context
    ]
    if len(sequences) < 2 or not rotated:
        return 0.0
    policy = _sum_output_logprobs(runtime, adapter, rotated)
    return estimate_kl(policy, _sum_output_logprobs(runtime, start, rotated))


def _sum_output_logprobs(
    runtime: BaseRuntime, adapter: BankedAdapter, sequences: Sequence[TokenizedPair]
) -> Float[Tensor, "Q"]:
    parts = []
    with torch.no_grad():
        for run in split_into_passes(runtime, sequences, [adapter] * len(sequences)):
            logprobs, owner = compute_token_logprobs(
                runtime, [sequences[i] for i in run], [adapter] * len(run)
            )
            parts.append(sum_by_sequence(logprobs, owner, len(run)))
    return torch.cat(parts)
