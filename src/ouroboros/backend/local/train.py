"""The training loop.

One optimizer step: `batch_size` rows are packed into as few forward passes as the token budget allows,
the gradient is gathered over them in float32, clipped, and applied to the whole adapter at once, since an
adapter is one flat row. The gradient does not depend on how the rows were packed.
"""

import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ouroboros.backend.local.forward import cut, output_logprobs, token_logprobs
from ouroboros.backend.local.load import FrozenModel
from ouroboros.backend.local.losses import SequenceBatch, coefficients, step_loss
from ouroboros.backend.local.tokens import Encoded
from ouroboros.backend.local.worker import Steps
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.errors import TrainingFailed
from ouroboros.domain.rows import Row
from ouroboros.domain.training import TrainingProgress, TrainingReport
from ouroboros.lora.bank import BankedAdapter


@dataclass(frozen=True)
class _Item:
    """A row in token ids, one sequence per output, and their log-probabilities under the start adapter."""

    row: Row
    sequences: tuple[Encoded, ...]
    reference: tuple[float, ...] = ()

    def __len__(self) -> int:
        return sum(map(len, self.sequences))


def train(
    frozen: FrozenModel,
    adapter: BankedAdapter,
    rows: Sequence[Row],
    config: AdapterConfig,
    training: TrainingConfig,
) -> Steps[TrainingProgress, TrainingReport]:
    """Train `adapter` in place on `rows`; yields its progress after each optimizer step, None before the first.

    Raises `TooLong` before the first step, `TrainingFailed` when the loss or gradient is not finite.
    """
    started = time.perf_counter()

    # 1. Rows become token ids; all are checked before anything runs.
    items = [_encode(frozen, row, i) for i, row in enumerate(rows)]
    items = yield from _with_references(frozen, adapter, items)

    # 2. The plan: which rows make up each step, and at what rate.
    plan = list(order(len(items), training, config.max_steps))
    rates = list(schedule(len(plan), training, config.learning_rate))

    # 3. The optimizer sees one tensor.
    master = adapter.master
    master.grad = torch.zeros_like(master)
    optimizer = torch.optim.AdamW([master], weight_decay=training.weight_decay, fused=True)

    # 4. Steps.
    losses: list[float] = []
    tokens = 0
    with adapter.training() as grads:
        for step, (chosen, rate) in enumerate(zip(plan, rates, strict=True), start=1):
            batch = [items[i] for i in chosen]
            loss = _backward(frozen, adapter, batch, grads, master.grad)
            norm = float(torch.nn.utils.clip_grad_norm_([master], training.max_grad_norm))
            _require_finite(loss, norm, step)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            adapter.publish()
            master.grad.zero_()
            losses.append(loss)
            tokens += sum(map(len, batch))
            yield TrainingProgress(
                step, len(plan), loss, rate, norm, tokens, time.perf_counter() - started
            )
    return _report(losses, len(items), tokens, time.perf_counter() - started)


def _backward(
    frozen: FrozenModel,
    adapter: BankedAdapter,
    items: Sequence[_Item],
    grads: Float[Tensor, "P"],
    into: Float[Tensor, "P"],
) -> float:
    """Add the gradient of one optimizer step's loss to `into`, in float32; the loss."""
    shares = coefficients([i.row for i in items], [len(i.sequences[0].output) for i in items])
    total = 0.0
    for run in cut([len(i) for i in items], frozen.token_budget):
        chosen = [items[i] for i in run]
        sequences = [s for item in chosen for s in item.sequences]
        logprobs, owner = token_logprobs(frozen, sequences, [adapter] * len(sequences))
        loss = step_loss(
            SequenceBatch(
                rows=[item.row for item in chosen],
                coefficients=[shares[i] for i in run],
                logprobs=logprobs,
                owner=owner,
                reference=torch.tensor(
                    [r for item in chosen for r in item.reference], device=frozen.device
                ),
            )
        )
        loss.backward()
        into.add_(grads)
        grads.zero_()
        total += float(loss.detach())
    return total


def _with_references(
    frozen: FrozenModel, adapter: BankedAdapter, items: Sequence[_Item]
) -> Steps[TrainingProgress, list[_Item]]:
    """Items whose losses compare with the start adapter get its log-probabilities, computed once."""
    asking = [i for i in items if i.row.loss.uses_reference]
    sequences = [s for item in asking for s in item.sequences]
    found = yield from output_logprobs(frozen, sequences, [adapter] * len(sequences))
    sums = iter([float(row.sum()) for row in found])
    return [
        replace(i, reference=tuple(next(sums) if i.row.loss.uses_reference else 0.0 for _ in i.sequences))
        for i in items
    ]


def order(rows: int, training: TrainingConfig, max_steps: int) -> Iterator[list[int]]:
    """The rows of each optimizer step: every epoch a fresh order, drawn from the seed."""
    chance = random.Random(training.seed)
    steps = training.steps(rows, max_steps)
    for _ in range(training.epochs):
        epoch = list(range(rows))
        chance.shuffle(epoch)
        for start in range(0, rows, training.batch_size):
            if steps == 0:
                return
            steps -= 1
            yield epoch[start : start + training.batch_size]


def schedule(steps: int, training: TrainingConfig, peak: float) -> Iterator[float]:
    """The rate of each step: a linear rise over the warm-up, then linear decay to zero after the last.

    An incremental update stays at its peak: its few steps are to count.
    """
    rise = min(math.ceil(training.warmup * steps), steps - 1)
    for step in range(steps):
        if step < rise:
            yield peak * (step + 1) / (rise + 1)
        elif training.incremental_update:
            yield peak
        else:
            yield peak * (steps - step) / (steps - rise)


def _encode(frozen: FrozenModel, row: Row, index: int) -> _Item:
    what = f"Row {index + 1}"
    return _Item(row, tuple(frozen.codec.sequence(row.prompt, o, what) for o in row.outputs))


def _require_finite(loss: float, norm: float, step: int) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingFailed(
            f"At step {step} the loss was {loss} and the gradient's norm {norm}.",
            hint="Lower the learning rate, or look for broken rows; the adapter is as it was.",
        )


def _report(losses: Sequence[float], rows: int, tokens: int, seconds: float) -> TrainingReport:
    """The first and the last tenth of the steps, and a word when nothing was learned."""
    span = max(1, len(losses) // 10)
    first, final = sum(losses[:span]) / span, sum(losses[-span:]) / span
    return TrainingReport(rows, len(losses), tokens, first, final, seconds, _advice(first, final))


def _advice(first: float, final: float) -> str:
    if final < 0.9 * first or first < 0.05:
        return ""
    return (
        f"The loss barely moved ({first:.2f} to {final:.2f}). Try AdapterConfig.auto(base) and "
        "TrainingConfig.auto(len(examples)): a higher rate, more layers, more epochs."
    )
