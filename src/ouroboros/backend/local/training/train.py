"""The training loop.

One optimizer step takes `batch_size` rows. They are packed into as few forward passes as the token
budget allows; their gradient is summed over the passes in float32, clipped, and applied to the whole
adapter at once, since an adapter is one flat vector. The gradient does not depend on how rows are packed
or on the other trainings that share a pass.
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
from ouroboros.backend.local.training.convergence import advise_unlearned, is_scored, measure_gaps
from ouroboros.backend.local.training.rows import (
    StepStats,
    TokenizedRow,
    add_references,
    copy_start_adapter,
    plan_token_budget,
    tokenize_rows,
)
from ouroboros.backend.local.training.score_targets import MAX_FIXED, move_to_targets, to_fixed_row
from ouroboros.backend.local.training.shared_gradients import GradientBatcher
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row
from ouroboros.domain.errors import TrainingFailed
from ouroboros.domain.training import TrainingProgress, TrainingReport
from ouroboros.lora.bank import BankedAdapter


def train(
    batcher: GradientBatcher,
    adapter: BankedAdapter,
    rows: Sequence[Row],
    config: AdapterConfig,
    training: TrainingConfig,
    replay: Sequence[Row] = (),
    checkpoints: Checkpoints = NO_CHECKPOINTS,
    anchors: Sequence[TokenizedRow] = (),
) -> Steps[TrainingProgress, TrainingReport]:
    """Train `adapter` in place on `rows`; yields its progress after each optimizer step.

    Each step also takes some rows of `replay`, which the adapter knows already, and of `anchors`, which
    have their teachers. Passes over the base are shared with all trainings that use the same batcher. A
    training that resumes from a checkpoint gives the same bits as one without interruption.

    With `training.until` the training ends as soon as all rows are learned and the replayed rows of the
    step are still known; that last step is not applied.

    Raises `TooLong` or `OutOfMemory` before the first step, `TrainingFailed` when the loss or gradient
    is not finite.
    """
    start_time = time.perf_counter()
    runtime = batcher.runtime

    # 1. Tokenize all rows, so that a row that does not fit is refused before anything runs.
    tokenized = [*tokenize_rows(runtime, (*rows, *replay)), *anchors]

    # 2. Plan the rows and the learning rate of each step, and the passes that fit into memory.
    #    If the training ends once all is learned, scored answers move to their targets in phase 6.
    scored = [i for i, row in enumerate(rows) if training.until is not None and is_scored(row)]
    stepped = [i for i in range(len(rows)) if i not in scored]
    new = [[stepped[i] for i in s] for s in shuffle_rows(len(stepped), training, config.max_steps)]
    replay_rows = range(len(rows), len(rows) + len(replay))
    anchor_rows = range(len(rows) + len(replay), len(tokenized))
    replayed = list(interleave_replay(new, replay_rows, training.replay, training.seed + 1))
    anchored = interleave_replay(new, anchor_rows, training.anchors, training.seed + 2)
    plan = [[*n, *r, *a] for n, r, a in zip(new, replayed, anchored, strict=True)]
    peak_rate = config.learning_rate * (training.caution if replay else 1.0)
    rates = list(schedule_rates(len(plan), training, peak_rate))
    memory_plan = plan_token_budget(runtime, adapter, tokenized, plan or [range(len(rows))])

    # 3. Compute what losses compare with, before the adapter changes: log-probabilities under the start
    #    adapter and teachers. Anchors have theirs already.
    with_references = yield from add_references(runtime, adapter, tokenized[: len(rows) + len(replay)])
    tokenized = [*with_references, *anchors]
    start = copy_start_adapter(runtime, adapter, tokenized)

    # 4. Create the optimizer, on one tensor, and restore its state if the training resumes.
    master = adapter.master
    master.grad = torch.zeros_like(master)
    optimizer = torch.optim.AdamW([master], weight_decay=training.weight_decay, fused=True)
    state = TrainingState([], 0)
    if checkpoints.resume:
        state = unpack_state(checkpoints.resume, master, optimizer, plan)
        adapter.publish()
    last_save, stats, unlearned = start_time, StepStats(0.0, [], []), 0
    score_steps, distances = 0, []

    # 5. Run the steps: gradient, clipping, end if all is learned, optimizer, checkpoint, progress.
    with adapter.training() as grads:
        for step in range(len(state.losses) + 1, len(plan) + 1):
            batch = [tokenized[i] for i in plan[step - 1]]
            stats = yield from batcher.add_gradient(
                adapter, start, batch, grads, master.grad, memory_plan
            )
            grad_norm = float(torch.nn.utils.clip_grad_norm_([master], training.max_grad_norm))
            require_finite(stats.loss, grad_norm, step)
            if training.until is not None:
                new_count = len(new[step - 1])
                gaps = measure_gaps(batch[: new_count + len(replayed[step - 1])], stats, training.until)
                unlearned = sum(gap > 0 for gap in gaps[:new_count])
                if not any(gaps):
                    break
            optimizer.param_groups[0]["lr"] = rates[step - 1]
            optimizer.step()
            adapter.publish()
            master.grad.zero_()
            state.losses.append(stats.loss)
            state.tokens += sum(map(len, batch))
            now, checkpoint = time.perf_counter(), None
            is_due = checkpoints.seconds is not None and now - last_save >= checkpoints.seconds
            if is_due or (checkpoints.is_wanted is not None and checkpoints.is_wanted()):
                last_save, checkpoint = now, pack_state(master, optimizer, state)
            yield TrainingProgress(
                step,
                len(plan),
                stats.loss,
                rates[step - 1],
                grad_norm,
                state.tokens,
                now - start_time,
                checkpoint,
                memory_plan.note,
            )

        # 6. Move scored answers to their targets. Rows of the steps and replayed rows hold still, as
        #    otherwise this would undo what the steps taught.
        if scored:
            fixed_rows = yield from add_references(
                runtime,
                adapter,
                [to_fixed_row(tokenized[i]) for i in (*stepped, *replay_rows)][:MAX_FIXED],
            )
            score_report = yield from move_to_targets(
                batcher,
                adapter,
                [tokenized[i] for i in scored],
                [(row, row.reference[0]) for row in fixed_rows],
                lambda gradient: None,
                grads,
                memory_plan,
                training.epochs,
                start_time,
            )
            unlearned, score_steps = unlearned + score_report.missed, score_report.steps
            distances = [score_report.first_distance, score_report.final_distance]

    # 7. Report. A training without steps has only distances, or the loss of the step not applied.
    steps, seconds = len(state.losses) + score_steps, time.perf_counter() - start_time
    first_loss, final_loss = _average_ends(state.losses or distances or [stats.loss])
    report = TrainingReport(len(rows), steps, state.tokens, first_loss, final_loss, seconds)
    advice = _advise_on_loss(report) if training.until is None else advise_unlearned(unlearned, steps)
    return replace(report, advice=advice)


def shuffle_rows(rows: int, training: TrainingConfig, max_steps: int) -> Iterator[list[int]]:
    """Yields the row indices of each optimizer step; each epoch has a new order, drawn from the seed."""
    rng = random.Random(training.seed)
    steps = training.count_steps(rows, max_steps)
    for _ in range(training.epochs):
        epoch = list(range(rows))
        rng.shuffle(epoch)
        for start in range(0, rows, training.batch_size):
            if steps == 0:
                return
            steps -= 1
            yield epoch[start : start + training.batch_size]


def interleave_replay(
    plan: Sequence[Sequence[int]], rows: Sequence[int], share: float, seed: int
) -> Iterator[list[int]]:
    """Yields the indices of `rows` that join each step of a plan: `share` for each row of the step.

    All rows are used once, in random order, before any is used again.
    """
    row_cycle = _cycle_shuffled(rows, random.Random(seed))
    due = 0.0
    for step in plan:
        due += share * len(step) if rows else 0.0
        yield [next(row_cycle) for _ in range(min(int(due), len(rows)))]
        due %= 1.0


def _cycle_shuffled(rows: Sequence[int], rng: random.Random) -> Iterator[int]:
    while True:
        yield from rng.sample(rows, len(rows))


def schedule_rates(steps: int, training: TrainingConfig, peak_rate: float) -> Iterator[float]:
    """Yields the learning rate of each step: linear warm-up, then linear decay to zero after the last.

    An incremental update stays at its peak rate, since it has too few steps to waste any.
    """
    warmup_steps = min(math.ceil(training.warmup * steps), steps - 1)
    for step in range(steps):
        if step < warmup_steps:
            yield peak_rate * (step + 1) / (warmup_steps + 1)
        elif training.incremental_update:
            yield peak_rate
        else:
            yield peak_rate * (steps - step) / (steps - warmup_steps)


def require_finite(loss: float, norm: float, step: int) -> None:
    """Raises `TrainingFailed` if the loss or the gradient's norm is infinite or NaN."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingFailed(
            f"At step {step} the loss was {loss} and the gradient's norm {norm}.",
            hint="Lower the learning rate, or look for broken rows; the adapter is unchanged.",
        )


def _average_ends(losses: Sequence[float]) -> tuple[float, float]:
    """Returns the mean loss over the first tenth of the steps, and over the last tenth."""
    span = max(1, len(losses) // 10)
    return sum(losses[:span]) / span, sum(losses[-span:]) / span


def _advise_on_loss(report: TrainingReport) -> str:
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
