"""The training loop.

One optimizer step: `batch_size` rows are packed into as few forward passes as the token budget allows,
the gradient is gathered over them in float32, clipped, and applied to the whole adapter at once, since
an adapter is one flat row. The gradient does not depend on how the rows were packed, nor with whose.
"""

import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from ouroboros.backend.base import NO_CHECKPOINTS, Checkpoints
from ouroboros.backend.local.runtime.worker import Steps
from ouroboros.backend.local.training.checkpoint import TrainingState, pack_state, unpack_state
from ouroboros.backend.local.training.convergence import advice, gaps, is_scored
from ouroboros.backend.local.training.rows import (
    StepStats,
    TokenizedRow,
    add_references,
    plan_token_budget,
    start_copy,
    tokenize_rows,
)
from ouroboros.backend.local.training.score_targets import MAX_HELD, as_held, move_to_targets
from ouroboros.backend.local.training.shared_gradients import GradientBatcher
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row
from ouroboros.domain.errors import TrainingFailed
from ouroboros.domain.training import TrainingProgress, TrainingReport
from ouroboros.lora.bank import BankedAdapter


def train(
    pool: GradientBatcher,
    adapter: BankedAdapter,
    rows: Sequence[Row],
    config: AdapterConfig,
    training: TrainingConfig,
    replay: Sequence[Row] = (),
    checkpoints: Checkpoints = NO_CHECKPOINTS,
    anchors: Sequence[TokenizedRow] = (),
) -> Steps[TrainingProgress, TrainingReport]:
    """Train `adapter` in place on `rows`; yields its progress after each optimizer step.

    Some of `replay`, rows that it knows, and of `anchors`, which have their teachers, join each step.
    Passes over the base are shared with whoever else asks the pool for gradients meanwhile. A training
    that goes on from a checkpoint ends with the same bits as one that was never stopped.

    With `training.until` it ends as soon as all rows are learned and what was replayed beside them is
    still known, so that the last step is not taken.

    Raises `TooLong` or `OutOfMemory` before the first step, `TrainingFailed` when the loss or gradient
    is not finite.
    """
    started = time.perf_counter()
    runtime = pool.runtime

    # 1. Rows become token ids; all are checked before anything runs.
    every = [*tokenize_rows(runtime, (*rows, *replay)), *anchors]

    # 2. The plan: which rows make up each step, at what rate, and how its passes fit the memory.
    #    Of a training that ends once all is learned, scored answers are moved to their targets last.
    scored = [i for i, row in enumerate(rows) if training.until is not None and is_scored(row)]
    stepped = [i for i in range(len(rows)) if i not in scored]
    new = [[stepped[i] for i in s] for s in shuffle_rows(len(stepped), training, config.max_steps)]
    known = range(len(rows), len(rows) + len(replay))
    plain = range(len(rows) + len(replay), len(every))
    replayed = list(interleave_replay(new, known, training.replay, training.seed + 1))
    anchored = interleave_replay(new, plain, training.anchors, training.seed + 2)
    plan = [[*n, *r, *a] for n, r, a in zip(new, replayed, anchored, strict=True)]
    peak = config.learning_rate * (training.caution if replay else 1.0)
    rates = list(schedule(len(plan), training, peak))
    passes = plan_token_budget(runtime, adapter, every, plan or [range(len(rows))])

    # 3. What the start makes of the rows; the optimizer sees one tensor.
    taught = yield from add_references(runtime, adapter, every[: len(rows) + len(replay)])
    items = [*taught, *anchors]
    start = start_copy(runtime, adapter, items)
    master = adapter.master
    master.grad = torch.zeros_like(master)
    optimizer = torch.optim.AdamW([master], weight_decay=training.weight_decay, fused=True)

    # 4. Where a former run had come to, if there was one.
    done = TrainingState([], 0)
    if checkpoints.resume:
        done = unpack_state(checkpoints.resume, master, optimizer, plan)
        adapter.publish()
    saved, found, waiting = started, StepStats(0.0, [], []), 0
    score_steps, distances = 0, []

    # 5. Steps.
    with adapter.training() as grads:
        for step in range(len(done.losses) + 1, len(plan) + 1):
            chosen, rate = plan[step - 1], rates[step - 1]
            batch = [items[i] for i in chosen]
            found = yield from pool.gradient(adapter, start, batch, grads, master.grad, passes)
            norm = float(torch.nn.utils.clip_grad_norm_([master], training.max_grad_norm))
            require_finite(found.loss, norm, step)
            if training.until is not None:
                own = len(new[step - 1])
                left = gaps(batch[: own + len(replayed[step - 1])], found, training.until)
                waiting = sum(gap > 0 for gap in left[:own])
                if not any(left):
                    break
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            adapter.publish()
            master.grad.zero_()
            done.losses.append(found.loss)
            done.tokens += sum(map(len, batch))
            now, state = time.perf_counter(), None
            due = checkpoints.seconds is not None and now - saved >= checkpoints.seconds
            if due or (checkpoints.is_wanted is not None and checkpoints.is_wanted()):
                saved, state = now, pack_state(master, optimizer, done)
            yield TrainingProgress(
                step, len(plan), found.loss, rate, norm, done.tokens, now - started, state, passes.note
            )

        # 6. Scored answers; what was learned in the steps, and what was replayed, stays.
        if scored:
            others = [as_held(items[i]) for i in (*stepped, *known)][:MAX_HELD]
            fixed_items = yield from add_references(runtime, adapter, others)
            moved = yield from move_to_targets(
                pool,
                adapter,
                [items[i] for i in scored],
                [(item, item.reference[0]) for item in fixed_items],
                lambda vector: None,
                grads,
                passes,
                training.epochs,
                started,
            )
            waiting, score_steps = waiting + moved.missed, moved.steps
            distances = [moved.first_distance, moved.final_distance]

    steps, seconds = len(done.losses) + score_steps, time.perf_counter() - started
    first, final = _ends(done.losses or distances or [found.loss])
    report = TrainingReport(len(rows), steps, done.tokens, first, final, seconds)
    words = _advise(report) if training.until is None else advice(waiting, steps)
    return replace(report, advice=words)


def shuffle_rows(rows: int, training: TrainingConfig, max_steps: int) -> Iterator[list[int]]:
    """The rows of each optimizer step: every epoch a fresh order, drawn from the seed."""
    chance = random.Random(training.seed)
    steps = training.count_steps(rows, max_steps)
    for _ in range(training.epochs):
        epoch = list(range(rows))
        chance.shuffle(epoch)
        for start in range(0, rows, training.batch_size):
            if steps == 0:
                return
            steps -= 1
            yield epoch[start : start + training.batch_size]


def interleave_replay(
    plan: Sequence[Sequence[int]], rows: Sequence[int], share: float, seed: int
) -> Iterator[list[int]]:
    """What joins each step of a plan: `share` rows for each of its own, all in turn, shuffled anew."""
    turns = _shuffled(rows, random.Random(seed))
    due = 0.0
    for step in plan:
        due += share * len(step) if rows else 0.0
        yield [next(turns) for _ in range(min(int(due), len(rows)))]
        due %= 1.0


def _shuffled(rows: Sequence[int], chance: random.Random) -> Iterator[int]:
    while True:
        yield from chance.sample(rows, len(rows))


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


def require_finite(loss: float, norm: float, step: int) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingFailed(
            f"At step {step} the loss was {loss} and the gradient's norm {norm}.",
            hint="Lower the learning rate, or look for broken rows; the adapter is as it was.",
        )


def _ends(losses: Sequence[float]) -> tuple[float, float]:
    """The means over the first and over the last tenth of the steps."""
    span = max(1, len(losses) // 10)
    return sum(losses[:span]) / span, sum(losses[-span:]) / span


def _advise(report: TrainingReport) -> str:
    first, final = report.first_loss, report.final_loss
    if report.diverged:
        return (
            f"The loss rose ({first:.2f} to {final:.2f}): the training diverged. Try a lower learning "
            "rate, such as that of AdapterConfig.auto(base)."
        )
    if final < 0.9 * first or first < 0.05:
        return ""
    return (
        f"The loss barely moved ({first:.2f} to {final:.2f}). Try AdapterConfig.auto(base) and "
        "TrainingConfig.auto(len(examples)): a higher rate, more layers, more epochs."
    )
