"""The null-space update: an adapter learns a few judged rows and keeps its answers to other prompts.

Adam's first steps move every weight by the full learning rate, whatever its gradient, and so change the
answers to all other prompts. These steps follow the gradient (in conjugate directions), so only weights
that matter to the rows move. The first step is short. The length of each later step follows from how
much of the remaining gap the last step closed. A step that raised the loss is taken back, and the update
ends as soon as all rows are learned.

Scored answers move by a given distance, so they are not among these rows: `score_targets` moves them
once all other rows are learned.

Steps also avoid the directions in which the inputs of *protected* prompts lie. A layer's update changes
its output for an input x by scale * B dA x; if dA is orthogonal to x, nothing changes. This is gradient
projection memory (arXiv 2103.09762), in the soft, regularised form of AlphaEdit's null-space projection
(arXiv 2410.02355), applied to the LoRA factor that sees the input. So A moves and B is fixed. Only where
B does not have full rank yet, so that A alone could change little or nothing, B moves too. Where B is
zero, A is projected first.

If an adapter has layers in attention blocks, only these move: the same correction through other layers
changes more answers that it should keep (docs/decisions/0004-one-correction.md).
"""

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ouroboros.backend.local.forward.packing import collect_layer_inputs
from ouroboros.backend.local.forward.prefix_reuse import split_by_tokens
from ouroboros.backend.local.model.load import BaseRuntime
from ouroboros.backend.local.runtime.worker import Steps
from ouroboros.backend.local.training.convergence import advise_unlearned, is_scored, measure_gaps
from ouroboros.backend.local.training.rows import (
    StepStats,
    add_first_pass_references,
    add_references,
    add_teachers,
    copy_start_adapter,
    plan_token_budget,
    tokenize_rows,
)
from ouroboros.backend.local.training.score_targets import MAX_FIXED, move_to_targets, to_fixed_row
from ouroboros.backend.local.training.shared_gradients import GradientBatcher
from ouroboros.backend.local.training.train import require_finite
from ouroboros.domain.config import UpdateConfig
from ouroboros.domain.data import Row, TrainingExample
from ouroboros.domain.training import TrainingProgress, TrainingReport
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.targets import attention_layers

MAX_PROTECTED_TOKENS = 640
"""Adapted tokens of protected prompts, at most: reading them is the most expensive part of an update."""

RANK_TOLERANCE = 0.01
"""Singular values of B below this share of the largest one do not count towards its rank."""

BACKTRACK = 0.4
"""Factor that shortens a step after one that raised the loss."""

CAUTIOUS_GROWTH = 1.4
"""Growth of the step length, at least, after a step has raised the loss."""

OVERSHOOT = 1.1
"""Factor on the step length that would close the gap: a step that falls short costs another one."""

MIN_GROWTH = 0.3
"""Smallest ratio of a step's length to that of the step before."""


@dataclass(frozen=True)
class NullSpaceProjector:
    """Removes the directions of protected inputs X [N, I] from the rows of a matrix.

    It multiplies by ridge (X^T X + ridge)^-1. `inverse` [I, I] is that product if there are more inputs
    than dimensions; else it is (X X^T + ridge)^-1 [N, N], which is smaller.
    """

    x: Float[Tensor, "N I"]
    inverse: Tensor

    @classmethod
    def from_inputs(cls, x: Float[Tensor, "N I"], ridge: float) -> "NullSpaceProjector":
        """Build the projector; `ridge` is a share of the inputs' mean squared norm per dimension."""
        strength = max(ridge * float(x.square().sum()) / x.shape[1], 1e-6)
        has_more_inputs = len(x) > x.shape[1]
        kernel = x.T @ x if has_more_inputs else x @ x.T
        kernel.diagonal().add_(strength)
        kernel = torch.cholesky_inverse(torch.linalg.cholesky(kernel))
        return cls(x, strength * kernel if has_more_inputs else kernel)

    def __call__(self, a: Float[Tensor, "R I"]) -> Float[Tensor, "R I"]:
        """Returns `a` without the protected directions."""
        if len(self.x) > self.x.shape[1]:
            return a @ self.inverse
        return a - (a @ self.x.T) @ self.inverse @ self.x


def update(
    batcher: GradientBatcher,
    adapter: BankedAdapter,
    rows: Sequence[Row],
    protect: Sequence[TrainingExample],
    config: UpdateConfig,
) -> Steps[TrainingProgress, TrainingReport]:
    """Change `adapter` in place until it has learned `rows`; it keeps its answers to `protect`.

    Yields its progress before each step.

    Raises `TooLong` or `OutOfMemory` before the first step, `TrainingFailed` when the loss or gradient
    is not finite.
    """
    start_time = time.perf_counter()
    runtime = batcher.runtime

    # 1. Tokenize and plan; compute what losses compare with, before the adapter changes. The other rows
    #    get their references from the first pass, which runs the same adapter.
    tokenized = tokenize_rows(runtime, rows)
    memory_plan = plan_token_budget(runtime, adapter, tokenized, [range(len(tokenized))])
    scored = [row for row in tokenized if is_scored(row.source)]
    if scored:
        scored = yield from add_references(runtime, adapter, scored)
    stepped = yield from add_teachers(
        runtime, adapter, [row for row in tokenized if not is_scored(row.source)]
    )
    start = copy_start_adapter(runtime, adapter, stepped)

    # 2. Choose the layers that move, and build their projectors from the protected inputs.
    layers = attention_layers(runtime.base) & set(adapter.paths) or frozenset(adapter.paths)
    projectors = _build_projectors(runtime, adapter, protect, config.ridge, layers)
    step_length = config.step * _measure_a_norm(adapter)
    b_projectors = _protect_rank_deficient(adapter, projectors, layers, config.ridge)
    factors = {path: "ab" if path in b_projectors else "a" for path in layers}

    master = adapter.master
    point, direction = master.clone(), torch.zeros_like(master)
    gradient, last_gradient = torch.zeros_like(master), torch.zeros_like(master)
    losses: list[float] = []
    gaps: list[float] = [math.inf]
    steps, grad_norm, growth = 0, 0.0, config.growth
    max_growth = growth

    def is_learned(stats: StepStats) -> bool:
        return not any(measure_gaps(add_first_pass_references(stepped, stats), stats, config.likely))

    with adapter.training(factors) as grads:
        while stepped:
            # 3. Loss and gradient at the current weights; no gradient if all rows are learned.
            stats = yield from batcher.add_gradient(
                adapter, start, stepped, grads, gradient, memory_plan, is_learned
            )
            stepped = add_first_pass_references(stepped, stats)

            # 4. If the loss rose (NaN counts as a rise), try a shorter step from the last point. Else
            #    accept the point, and choose the next direction and its length from the gap.
            if losses and not stats.loss <= losses[-1]:
                step_length *= BACKTRACK
                max_growth, growth = 1.0, max(CAUTIOUS_GROWTH, math.sqrt(growth))
            else:
                losses.append(stats.loss)
                last_gaps, gaps = gaps, measure_gaps(stepped, stats, config.likely)
                _project_gradient(adapter, gradient, projectors, b_projectors)
                grad_norm = float(gradient.norm())
                require_finite(stats.loss, grad_norm, len(losses))
                point.copy_(master)
                direction = _conjugate_direction(gradient, last_gradient, direction)
                last_gradient.copy_(gradient)
                step_length *= _next_step_factor(max(last_gaps), max(gaps), max_growth) if steps else 1.0
                max_growth = growth
            gradient.zero_()
            if not any(gaps) or steps == config.max_steps:
                break

            # 5. Take the step from the last accepted point.
            steps += 1
            scale = step_length / max(float(direction.norm()), 1e-12)
            torch.sub(point, direction, alpha=scale, out=master)
            adapter.publish()
            yield TrainingProgress(
                step=steps,
                steps=config.max_steps,
                loss=losses[-1],
                learning_rate=step_length,
                grad_norm=grad_norm,
                tokens=steps * sum(map(len, stepped)),
                seconds=time.perf_counter() - start_time,
                note=memory_plan.note,
            )

        # 6. Return to the last accepted point: the last step may have raised the loss.
        master.copy_(point)
        adapter.publish()
        unlearned = sum(gap > 0 for gap in gaps) if stepped else 0

        # 7. Move scored answers to their targets. The other rows hold still, as otherwise this would
        #    undo what the steps taught.
        if scored:
            fixed_rows = yield from add_references(
                runtime, adapter, [to_fixed_row(row) for row in stepped][:MAX_FIXED]
            )
            score_report = yield from move_to_targets(
                batcher,
                adapter,
                scored,
                [(row, row.reference[0]) for row in fixed_rows],
                lambda gradient: _project_gradient(adapter, gradient, projectors, b_projectors),
                grads,
                memory_plan,
                config.max_steps,
                start_time,
            )
            losses = losses or [score_report.first_distance, score_report.final_distance]
            unlearned, steps = unlearned + score_report.missed, steps + score_report.steps

    return TrainingReport(
        rows=len(tokenized),
        steps=steps,
        tokens=(steps + 1) * sum(map(len, tokenized)),
        first_loss=losses[0],
        final_loss=losses[-1],
        seconds=time.perf_counter() - start_time,
        advice=advise_unlearned(unlearned, steps),
    )


def _next_step_factor(last_gap: float, gap: float, max_growth: float) -> float:
    """Returns the growth of the step length, from the gaps before and after the last step."""
    closed = last_gap - gap
    return min(max_growth, max(MIN_GROWTH, OVERSHOOT * gap / closed)) if closed > 0 else max_growth


def _conjugate_direction(
    gradient: Float[Tensor, "P"], last_gradient: Float[Tensor, "P"], direction: Float[Tensor, "P"]
) -> Float[Tensor, "P"]:
    """Returns the next search direction by Polak and Ribiere, which does not zigzag in narrow valleys.

    It is the gradient itself where the conjugate direction would not lead downhill.
    """
    continuation = float(gradient @ (gradient - last_gradient)) / max(
        float(last_gradient @ last_gradient), 1e-24
    )
    new_direction = gradient + max(continuation, 0.0) * direction
    return new_direction if float(new_direction @ gradient) > 0 else gradient.clone()


def _build_projectors(
    runtime: BaseRuntime,
    adapter: BankedAdapter,
    protect: Sequence[TrainingExample],
    ridge: float,
    layers: Collection[str],
) -> dict[str, NullSpaceProjector]:
    """Build a projector for each of `layers`; layers with the same input share one.

    Protected examples count in order until `MAX_PROTECTED_TOKENS`. Without any, the result is empty.
    """
    tokenizer = runtime.tokenizer
    prompts = [tokenizer.anchor_conversation(e.input) for e in protect]
    sequences = [tokenizer.encode_pair(p, e.output) for p, e in zip(prompts, protect, strict=True)]
    adapted_tokens = [len(s) - adapter.first_adapted_token(len(s.prompt)) for s in sequences]
    selected = next(split_by_tokens(adapted_tokens, MAX_PROTECTED_TOKENS), [])
    if not selected:
        return {}
    projectors: dict[int, NullSpaceProjector] = {}
    inputs = collect_layer_inputs(runtime, [sequences[i] for i in selected], adapter)
    for x in (inputs[path] for path in layers):
        if id(x) not in projectors:
            projectors[id(x)] = NullSpaceProjector.from_inputs(x.reshape(-1, x.shape[-1]).float(), ridge)
    return {path: projectors[id(inputs[path])] for path in layers}


def _measure_a_norm(adapter: BankedAdapter) -> float:
    """Returns the Euclidean norm of all A factors together."""
    return math.sqrt(
        sum(float(a.square().sum()) for a, _ in adapter.split_by_layer(adapter.master).values())
    )


def _protect_rank_deficient(
    adapter: BankedAdapter,
    projectors: Mapping[str, NullSpaceProjector],
    layers: Collection[str],
    ridge: float,
) -> dict[str, NullSpaceProjector | None]:
    """Returns the layers whose B does not have full rank, where B moves too, with projectors for B.

    If B is not zero, its projector removes the directions of A x for the protected inputs x. If B is
    zero, it needs none: A is projected here, in place and at its old norm, which changes no output.
    """
    b_projectors: dict[str, NullSpaceProjector | None] = {}
    for path, (a, b) in adapter.split_by_layer(adapter.master).items():
        if path not in layers or _has_full_rank(b):
            continue
        b_projectors[path] = None
        if path in projectors and b.any():
            b_projectors[path] = NullSpaceProjector.from_inputs(projectors[path].x @ a.T, ridge)
        elif path in projectors:
            projected = projectors[path](a)
            a.copy_(projected * (a.norm() / projected.norm().clamp(min=1e-12)))
    adapter.publish()
    return b_projectors


def _has_full_rank(b: Float[Tensor, "R O"]) -> bool:
    """Whether B has full rank, so that a change of A alone can reach every output it ever could."""
    return int(torch.linalg.matrix_rank(b.float(), rtol=RANK_TOLERANCE)) == min(b.shape)


def _project_gradient(
    adapter: BankedAdapter,
    gradient: Float[Tensor, "P"],
    projectors: Mapping[str, NullSpaceProjector],
    b_projectors: Mapping[str, NullSpaceProjector | None],
) -> None:
    """Remove the protected directions from a gradient in place, for A and, where it moves, for B."""
    for path, (a, b) in adapter.split_by_layer(gradient).items():
        if (projector := b_projectors.get(path)) is not None:
            b.copy_(projector(b.T).T)
        if path in projectors:
            a.copy_(projectors[path](a))
