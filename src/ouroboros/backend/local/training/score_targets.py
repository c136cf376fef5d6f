"""Scored feedback: move the log-probability of each judged answer by ln 2 times its score.

Each judged answer has its own target. A step is the shortest one (Gauss-Newton) that closes all
distances at once: with the gradients G [N, P] of the answers' log-probabilities, their projections PG,
and the distances r [N], the step is (G PG^T)^-1 r times PG. Log-probabilities bend, so steps repeat
until all answers are at their targets, and a step that leads further away is halved.

Answers that must not change take part with a distance of zero.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ouroboros.backend.local.model.memory_plan import MemoryPlan
from ouroboros.backend.local.runtime.worker import Steps
from ouroboros.backend.local.training.convergence import compute_target, compute_tolerance
from ouroboros.backend.local.training.rows import TokenizedRow
from ouroboros.backend.local.training.shared_gradients import GradientBatcher
from ouroboros.domain.data import Row
from ouroboros.domain.errors import TrainingFailed
from ouroboros.domain.losses import APOZero, Supervised
from ouroboros.domain.training import TrainingProgress
from ouroboros.lora.bank import BankedAdapter

MAX_FIXED = 16
"""Answers held at their log-probability, at most: each costs a pass per step."""

MAX_GRADIENT_VALUES = 2**28
"""Gradient values of one group of answers, at most: 1 GiB in float32."""

MAX_CHANGE = 1.0
"""Nats that a step changes an answer by, at most: beyond, the gradient is a poor guide."""

MAX_SWEEPS = 4
"""Passes over the groups, where the answers are too many for one."""

MAX_GROWTH = 4.0
"""Growth, at most, of the share of its full length that a step takes."""

RESTART = 1 / 8
"""Share of the shortest step to try after a conjugate step that did not come closer."""

_DAMPING = 1e-6
"""Share of the mean diagonal added to G PG^T: equal answers make it singular."""

_MIN_SHORTENING = 1 / 64
"""The search ends if a step comes no closer even at this share of its length."""


@dataclass(frozen=True)
class ScoreTarget:
    """One answer as a supervised row, whose gradient is that of its log-probability.

    `target` is a log-probability, `tolerance` a distance from it; both in nats.
    """

    row: TokenizedRow
    target: float
    tolerance: float


@dataclass(frozen=True)
class ScoreReport:
    """Mean distances of judged answers from their targets before and after, in nats.

    `missed` counts the answers that did not reach theirs.
    """

    first_distance: float
    final_distance: float
    steps: int
    missed: int


def move_to_targets(
    batcher: GradientBatcher,
    adapter: BankedAdapter,
    scored: Sequence[TokenizedRow],
    fixed: Sequence[tuple[TokenizedRow, float]],
    project: Callable[[Float[Tensor, "P"]], None],
    grads: Float[Tensor, "P"],
    memory_plan: MemoryPlan,
    max_steps: int,
    start_time: float,
) -> Steps[TrainingProgress, ScoreReport]:
    """Move the `scored` answers, which have their references, to their targets.

    `fixed` are answers with the log-probability at which they must stay; `project` removes from a
    gradient, in place, what must not move. Ends at the point closest to the targets.

    Raises `TrainingFailed` when a log-probability or gradient is not finite.
    """
    # 1. Split the answers into groups whose gradients, and their projections, fit into memory.
    targets = [_make_target(row, compute_target(row), compute_tolerance(row)) for row in scored]
    fixed_targets = [_make_target(row, total, compute_tolerance(row)) for row, total in fixed]
    size = max(1, MAX_GRADIENT_VALUES // adapter.master.numel() // 2)
    groups = [targets[i : i + size] for i in range(0, len(targets), size)]

    # 2. Move one group after the other. Each moves the others a little, so all get further sweeps until
    #    every answer is at its target.
    first = final = 0.0
    steps = missed = 0
    for sweep in range(MAX_SWEEPS if len(groups) > 1 else 1):
        final, missed = 0.0, 0
        for group in groups:
            members = [*group, *fixed_targets[: max(size - len(group), 0)]]
            search = _move_group(
                batcher,
                adapter,
                members,
                project,
                grads,
                memory_plan,
                max_steps - steps,
                steps,
                start_time,
            )
            before, after, new_steps = yield from search
            steps += new_steps
            judged = list(zip(group, after, strict=False))
            final += sum(abs(distance) for _, distance in judged) / len(targets)
            missed += sum(abs(distance) > each.tolerance for each, distance in judged)
            if sweep == 0:
                first += sum(map(abs, before[: len(group)])) / len(targets)
        if not missed:
            break
    return ScoreReport(first, final, steps, missed)


def _move_group(
    batcher: GradientBatcher,
    adapter: BankedAdapter,
    targets: Sequence[ScoreTarget],
    project: Callable[[Float[Tensor, "P"]], None],
    grads: Float[Tensor, "P"],
    memory_plan: MemoryPlan,
    max_steps: int,
    steps_before: int,
    start_time: float,
) -> Steps[TrainingProgress, tuple[list[float], list[float], int]]:
    """Move one group of answers; returns the distances before and after, and the number of steps."""
    master = adapter.master
    point, step = master.clone(), torch.zeros_like(master)
    first: list[float] = []
    distances: list[float] = []
    shortest, descent, was_shortened = torch.zeros_like(master), torch.zeros_like(master), False
    steps, shortening, grad_norm = 0, 1.0, 0.0
    tokens = sum(len(each.row) for each in targets)
    while True:
        # 1. Compute the distance and the gradient of each answer at the current weights.
        gradients = torch.zeros(len(targets), master.numel(), device=master.device)
        totals: list[float] = []
        for each, gradient in zip(targets, gradients, strict=True):
            stats = yield from batcher.add_gradient(
                adapter, None, [each.row], grads, gradient, memory_plan
            )
            gradient.mul_(-len(each.row.sequences[0].output))  # the loss is the mean over the tokens
            totals.append(stats.totals[0][0])
        new_distances = [each.target - total for each, total in zip(targets, totals, strict=True)]
        if not first:
            first = new_distances
            if not all(map(math.isfinite, new_distances)) or not bool(gradients.isfinite().all()):
                raise TrainingFailed(
                    "A judged answer's log-probability or its gradient is not finite.",
                    hint="The adapter is unchanged. Check its training report, or use dtype float32.",
                )

        # 2. Accept the point if it is closer to the targets; else halve the step from the last point.
        if distances and not _sum_squares(new_distances) < _sum_squares(distances):
            shortening /= 2
            if was_shortened and shortening < _MIN_SHORTENING:  # start over from the gradient alone
                step, was_shortened, shortening = shortest, False, RESTART
        else:
            distances = new_distances
            point.copy_(master)
            if _all_targets_met(targets, distances):
                break
            projected = gradients.clone()
            for gradient in projected:
                project(gradient)
            was_shortened = shortening < 1
            shortest, step, descent = _conjugate_step(
                gradients, projected, distances, step if was_shortened else None, descent
            )
            grad_norm, shortening = float(gradients.norm()), min(1.0, MAX_GROWTH * shortening)
        if steps >= max_steps or shortening < _MIN_SHORTENING:
            break

        # 3. Take the step from the last accepted point.
        steps += 1
        torch.add(point, step, alpha=shortening, out=master)
        adapter.publish()
        yield TrainingProgress(
            step=steps_before + steps,
            steps=steps_before + max_steps,
            loss=sum(map(abs, distances)) / len(distances),
            learning_rate=shortening * float(step.norm()),
            grad_norm=grad_norm,
            tokens=(steps_before + steps) * tokens,
            seconds=time.perf_counter() - start_time,
            note=memory_plan.note,
        )
    master.copy_(point)
    adapter.publish()
    return first, distances, steps


def _conjugate_step(
    gradients: Float[Tensor, "N P"],
    projected: Float[Tensor, "N P"],
    distances: Sequence[float],
    last_step: Float[Tensor, "P"] | None,
    last_descent: Float[Tensor, "P"],
) -> tuple[Float[Tensor, "P"], Float[Tensor, "P"], Float[Tensor, "P"]]:
    """Returns the shortest step that closes all distances, the step to take, and the descent direction.

    At first the step to take is the shortest one. A step that had to be shortened means a narrow valley:
    then the last step continues with Polak and Ribiere's factor, plus the shortest step that closes the
    remaining distances.
    """
    kernel = (gradients @ projected.T).double().cpu()
    kernel.diagonal().add_(_DAMPING * float(kernel.diagonal().mean().clamp(min=1e-30)))
    changes = torch.tensor(distances, dtype=torch.float64).clamp(-MAX_CHANGE, MAX_CHANGE)
    shortest = step = _combine_gradients(kernel, changes, projected)
    descent = torch.tensor(distances).to(projected) @ projected
    if last_step is not None:
        continuation = float(descent @ (descent - last_descent)) / max(
            float(last_descent @ last_descent), 1e-24
        )
        step = step + max(continuation, 0.0) * last_step
        step = step + _combine_gradients(kernel, changes - (gradients @ step).double().cpu(), projected)
    return shortest, step, descent


def _combine_gradients(
    kernel: Float[Tensor, "N N"], change: Float[Tensor, "N"], projected: Float[Tensor, "N P"]
) -> Float[Tensor, "P"]:
    """Returns the shortest step that changes the N log-probabilities by `change`, in nats."""
    shares = torch.linalg.lstsq(kernel, change[:, None]).solution[:, 0]
    return shares.to(projected) @ projected


def to_fixed_row(row: TokenizedRow) -> TokenizedRow:
    """Returns the wanted output of a row as a row of its own, whose reference is yet to be computed."""
    fixed = Row(row.source.prompt, row.source.outputs[0], APOZero())
    return TokenizedRow(fixed, row.sequences[:1])


def _make_target(row: TokenizedRow, target: float, tolerance: float) -> ScoreTarget:
    supervised = Row(row.source.prompt, row.source.outputs[0], Supervised())
    single = replace(row, source=supervised, sequences=row.sequences[:1], reference=(0.0,), teacher=None)
    return ScoreTarget(single, target, tolerance)


def _all_targets_met(targets: Sequence[ScoreTarget], distances: Sequence[float]) -> bool:
    return all(abs(d) <= each.tolerance for each, d in zip(targets, distances, strict=True))


def _sum_squares(distances: Sequence[float]) -> float:
    return sum(d * d for d in distances)
