"""What an optimizer step needs: rows as token ids, and what the start adapter makes of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ouroboros.backend.local.forward.packing import compute_output_logprobs, compute_token_logprobs
from ouroboros.backend.local.forward.prefix_reuse import (
    count_pass_tokens,
    split_by_tokens,
    total_pass_tokens,
)
from ouroboros.backend.local.model.load import BaseRuntime
from ouroboros.backend.local.model.memory_plan import MemoryPlan, plan_memory
from ouroboros.backend.local.model.tokenizer import TokenizedPair
from ouroboros.backend.local.runtime.worker import Steps
from ouroboros.backend.local.training.distillation import Teacher, teacher_topk
from ouroboros.backend.local.training.losses import (
    kl_estimate,
    totals,
)
from ouroboros.domain.data import Row
from ouroboros.domain.losses import Distillation, Loss, Supervised
from ouroboros.domain.training import TrainingProgress
from ouroboros.lora.bank import BankedAdapter


@dataclass(frozen=True)
class TokenizedRow:
    """A row in token ids, one sequence per output, with their log-probabilities at the start; none where
    the next pass is the start's own.

    A row that is to stay as its teacher, or is held by the start, has the teacher's next tokens at each
    place of its output.
    """

    row: Row
    sequences: tuple[TokenizedPair, ...]
    reference: tuple[float, ...] = ()
    teacher: Teacher | None = None

    def __len__(self) -> int:
        return sum(map(len, self.sequences))


@dataclass(frozen=True)
class StepStats:
    """What a step's forward passes found out before the weights moved.

    totals  log-probability of every item's outputs; least  of the least likely token of its first one.
    """

    loss: float
    totals: list[tuple[float, ...]]
    least: list[float]


def tokenize_rows(runtime: BaseRuntime, rows: Sequence[Row]) -> list[TokenizedRow]:
    """Rows as token ids. Raises `TooLong` for one that does not fit, `InvalidExample` for its form."""
    items = []
    for i, row in enumerate(rows, start=1):
        row.check()
        outputs = (runtime.tokenizer.encode_pair(row.prompt, o, f"Row {i}") for o in row.outputs)
        items.append(TokenizedRow(row, tuple(outputs)))
    return items


def plan_token_budget(
    runtime: BaseRuntime,
    adapter: BankedAdapter,
    items: Sequence[TokenizedRow],
    steps: Sequence[Sequence[int]],
) -> MemoryPlan:
    """How passes over items are cut so that they fit; `steps` are the items of each step."""
    tokens = [total_pass_tokens(runtime, i.sequences, adapter) for i in items]
    rows = [
        (n, max(map(len, i.sequences)), sum(len(s.output) for s in i.sequences))
        for n, i in zip(tokens, items, strict=True)
    ]
    step = max(sum(tokens[i] for i in step) for step in steps)
    found = plan_memory(
        runtime.memory_costs,
        rows,
        adapter.master.numel(),
        step,
        runtime.preferred_tokens,
        runtime.free_bytes,
    )
    return replace(found, first_layer=_start(runtime, adapter, items, steps))


def _start(
    runtime: BaseRuntime,
    adapter: BankedAdapter,
    items: Sequence[TokenizedRow],
    steps: Sequence[Sequence[int]],
) -> int:
    """The first layer that is adapted, where rows come twice and what it is given of all can be kept."""
    if runtime.decoder is None or sum(map(len, steps)) < 2 * len({i for step in steps for i in step}):
        return 0
    taken = sum(map(len, items)) * runtime.base.width * runtime.dtype.itemsize
    return (
        runtime.decoder.first_adapted_layer(adapter.paths)
        if taken <= runtime.prefix_cache.max_bytes // 2
        else 0
    )


def add_references(
    runtime: BaseRuntime, adapter: BankedAdapter, items: Sequence[TokenizedRow]
) -> Steps[TrainingProgress, list[TokenizedRow]]:
    """Items with what is asked once, before the first step: of the start adapter, and of teachers."""
    asking = [i for i in items if i.row.loss.uses_reference]
    sequences = [s for item in asking for s in item.sequences]
    found = yield from compute_output_logprobs(runtime, sequences, [adapter] * len(sequences))
    sums = iter([float(row.sum()) for row in found])
    return (yield from add_teachers(runtime, adapter, [_compared(i, sums) for i in items]))


def add_teachers(
    runtime: BaseRuntime, adapter: BankedAdapter, items: Sequence[TokenizedRow]
) -> Steps[TrainingProgress, list[TokenizedRow]]:
    """Items that have a teacher, with what it says."""
    having = [i for i in items if _has_teacher(i.row.loss)]
    teachers = iter(
        (
            yield from teacher_topk(
                runtime,
                [i.sequences[0] for i in having],
                [None if i.row.loss == Distillation("base") else adapter for i in having],
                [isinstance(i.row.loss, Supervised) for i in having],
            )
        )
    )
    return [replace(i, teacher=next(teachers)) if _has_teacher(i.row.loss) else i for i in items]


def add_start(items: Sequence[TokenizedRow], found: StepStats) -> list[TokenizedRow]:
    """Items as `add_references` has them, by what the first pass over the start adapter has found."""
    pairs = zip(items, found.totals, strict=True)
    return [i if i.reference else _compared(i, iter(own)) for i, own in pairs]


def _compared(item: TokenizedRow, start: Iterator[float]) -> TokenizedRow:
    """With its outputs' log-probabilities, the next of the start's, if its loss asks for them."""
    asks = item.row.loss.uses_reference
    return replace(item, reference=tuple(next(start) if asks else 0.0 for _ in item.sequences))


def _has_teacher(loss: Loss) -> bool:
    return isinstance(loss, Distillation) or (isinstance(loss, Supervised) and loss.non_target_kl > 0)


def start_copy(
    runtime: BaseRuntime, adapter: BankedAdapter, items: Sequence[TokenizedRow]
) -> BankedAdapter | None:
    """The adapter as it is before training, kept if a loss compares with it at every step."""
    if not any(item.row.loss.uses_batch_kl for item in items):
        return None
    return adapter.copy()


def kl_to_start(
    runtime: BaseRuntime, adapter: BankedAdapter, start: BankedAdapter, items: Sequence[TokenizedRow]
) -> float:
    """KL to the start, from each row's prompt followed by the output of the row before it."""
    asking = [i.sequences[0] for i in items if i.row.loss.uses_batch_kl]
    rotated = [
        TokenizedPair(here.prompt, before.output)
        for here, before in zip(asking, [*asking[-1:], *asking[:-1]], strict=True)
        if len(here.prompt) + len(before.output) <= runtime.base.context
    ]
    if len(asking) < 2 or not rotated:
        return 0.0
    policy = _totals(runtime, adapter, rotated)
    return kl_estimate(policy, _totals(runtime, start, rotated))


def _totals(
    runtime: BaseRuntime, adapter: BankedAdapter, sequences: Sequence[TokenizedPair]
) -> Float[Tensor, "Q"]:
    parts = []
    with torch.no_grad():
        for run in split_by_tokens(
            count_pass_tokens(runtime, sequences, [adapter] * len(sequences)), runtime.token_budget
        ):
            logprobs, owner = compute_token_logprobs(
                runtime, [sequences[i] for i in run], [adapter] * len(run)
            )
            parts.append(totals(logprobs, owner, len(run)))
    return torch.cat(parts)
