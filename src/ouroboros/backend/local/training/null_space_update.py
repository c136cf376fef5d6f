"""The careful update: work a few judged rows into an adapter and leave the rest of it alone.

Adam's first steps move every weight by the full rate, whatever its gradient, and with them the answers
to every other prompt. Here steps follow the gradient (by conjugate directions), so that only what
matters to the rows moves. The first is short; each later one is as long as what is still to be learned
seems to need, by what the last one taught. They are taken back when the loss rose, and end as soon as
all rows are learned.

Answers with a score move by a given distance, so they are not among these rows: once all others are
learned, `score_targets` moves them.

And a step is kept off the directions in which the inputs of *protected* prompts lie. A layer's update
changes its output for an input x by scale * B dA x; if dA is orthogonal to x, nothing changes. That is
gradient projection memory (arXiv 2103.09762), in the soft, regularised form of AlphaEdit's null-space
projection (arXiv 2410.02355), applied to the LoRA factor that sees the input. So A moves and B rests.
Only where B is not of full rank yet, and A alone could move little or nothing, B moves too; where it is
zero, behind an A that is shielded first.

Where an adapter has layers in attention blocks, only these move: the same correction by way of the
others changes more of what was not meant (docs/decisions/0004-one-correction.md).
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
from ouroboros.backend.local.training.convergence import advice, gaps, is_scored
from ouroboros.backend.local.training.rows import (
    StepStats,
    add_references,
    add_start,
    add_teachers,
    plan_token_budget,
    start_copy,
    tokenize_rows,
)
from ouroboros.backend.local.training.score_targets import MAX_HELD, as_held, move_to_targets
from ouroboros.backend.local.training.shared_gradients import GradientBatcher
from ouroboros.backend.local.training.train import require_finite
from ouroboros.domain.config import UpdateConfig
from ouroboros.domain.data import Row, TrainingExample
from ouroboros.domain.training import TrainingProgress, TrainingReport
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.targets import attention_layers

SHIELD_TOKENS = 640
"""Protected tokens at most, adapted ones: reading them is the dearest part of an update."""

SMALL = 0.01
"""A direction of B that is this much shorter than its longest one leads nowhere yet."""

SHORTER = 0.4
"""What a step that raised the loss is shortened by."""

CALM = 1.4
"""Where steps have raised the loss, later ones grow by less, but by this."""

BEYOND = 1.1
"""A step goes so much further than it seems to need: falling short costs another."""

LEAST = 0.3
"""Of the last step's length, a step has at least this."""


@dataclass(frozen=True)
class NullSpaceProjector:
    """Takes the directions of protected inputs X [N, I] out of a matrix's rows.

    It multiplies by ridge (X^T X + ridge)^-1. `inside` is that where there are more inputs than
    directions; else it is (X X^T + ridge)^-1, the smaller one.
    """

    x: Float[Tensor, "N I"]
    inside: Tensor

    @classmethod
    def against(cls, x: Float[Tensor, "N I"], ridge: float) -> "NullSpaceProjector":
        """`ridge` is a share of the inputs' mean energy per direction."""
        strength = max(ridge * float(x.square().sum()) / x.shape[1], 1e-6)
        many = len(x) > x.shape[1]
        inside = x.T @ x if many else x @ x.T
        inside.diagonal().add_(strength)
        inside = torch.cholesky_inverse(torch.linalg.cholesky(inside))
        return cls(x, strength * inside if many else inside)

    def __call__(self, a: Float[Tensor, "R I"]) -> Float[Tensor, "R I"]:
        if len(self.x) > self.x.shape[1]:
            return a @ self.inside
        return a - (a @ self.x.T) @ self.inside @ self.x


def update(
    pool: GradientBatcher,
    adapter: BankedAdapter,
    rows: Sequence[Row],
    protect: Sequence[TrainingExample],
    config: UpdateConfig,
) -> Steps[TrainingProgress, TrainingReport]:
    """Change `adapter` in place until it has learned `rows`; `protect` are prompts to leave as they are.

    Raises `TooLong` or `OutOfMemory` before the first step, `TrainingFailed` when the loss or gradient
    is not finite.
    """
    started = time.perf_counter()
    runtime = pool.runtime

    # 1. What is to be learned, and what each layer has to keep away from.
    every = tokenize_rows(runtime, rows)
    passes = plan_token_budget(runtime, adapter, every, [range(len(every))])
    scored = [item for item in every if is_scored(item.row)]
    if scored:
        scored = yield from add_references(runtime, adapter, scored)
    items = yield from add_teachers(runtime, adapter, [i for i in every if not is_scored(i.row)])
    start = start_copy(runtime, adapter, items)
    moving = attention_layers(runtime.base) & set(adapter.paths) or frozenset(adapter.paths)
    shields = _projectors(runtime, adapter, protect, config.ridge, moving)
    length = config.step * _length(adapter)
    young = _rank_deficient(adapter, shields, moving, config.ridge)

    # 2. Steps along the shielded gradient of all but scored answers, each as long as the gap seems to
    #    need; shorter, and from the same point again, when the loss rose.
    master = adapter.master
    point, direction = master.clone(), torch.zeros_like(master)
    gradient, before = torch.zeros_like(master), torch.zeros_like(master)
    losses: list[float] = []
    left: list[float] = [math.inf]
    tries, norm, growth = 0, 0.0, config.growth
    most = growth
    factors = {path: "ab" if path in young else "a" for path in moving}

    def learned(found: StepStats) -> bool:
        return not any(gaps(add_start(items, found), found, config.likely))

    with adapter.training(factors) as grads:
        while items:
            found = yield from pool.gradient(adapter, start, items, grads, gradient, passes, learned)
            items = add_start(items, found)
            if losses and not found.loss <= losses[-1]:  # not a number counts as a rise
                length, most, growth = length * SHORTER, 1.0, max(CALM, math.sqrt(growth))
            else:
                losses.append(found.loss)
                apart, left = left, gaps(items, found, config.likely)
                _projector(adapter, gradient, shields, young)
                norm = float(gradient.norm())
                require_finite(found.loss, norm, len(losses))
                point.copy_(master)
                direction = _conjugate(gradient, before, direction)
                before.copy_(gradient)
                length *= _reach(max(apart), max(left), most) if tries else 1.0
                most = growth
            gradient.zero_()
            if not any(left) or tries == config.max_steps:
                break
            tries += 1
            torch.sub(point, direction, alpha=length / max(float(direction.norm()), 1e-12), out=master)
            adapter.publish()
            yield TrainingProgress(
                step=tries,
                steps=config.max_steps,
                loss=losses[-1],
                learning_rate=length,
                grad_norm=norm,
                tokens=tries * sum(map(len, items)),
                seconds=time.perf_counter() - started,
                note=passes.note,
            )

        # 3. The last point at which the loss had not risen.
        master.copy_(point)
        adapter.publish()
        waiting, steps = sum(gap > 0 for gap in left) if items else 0, tries

        # 4. Scored answers move to their targets; what was learned in step 2 stays.
        if scored:
            fixed_items = yield from add_references(
                runtime, adapter, [as_held(item) for item in items][:MAX_HELD]
            )
            moved = yield from move_to_targets(
                pool,
                adapter,
                scored,
                [(item, item.reference[0]) for item in fixed_items],
                lambda vector: _projector(adapter, vector, shields, young),
                grads,
                passes,
                config.max_steps,
                started,
            )
            losses = losses or [moved.first_distance, moved.final_distance]
            waiting, steps = waiting + moved.missed, steps + moved.steps

    return TrainingReport(
        rows=len(every),
        steps=steps,
        tokens=(steps + 1) * sum(map(len, every)),
        first_loss=losses[0],
        final_loss=losses[-1],
        seconds=time.perf_counter() - started,
        advice=advice(waiting, steps),
    )


def _reach(before: float, now: float, most: float) -> float:
    """How many times longer the next step is to be, by what the last one closed of the gap."""
    closed = before - now
    return min(most, max(LEAST, BEYOND * now / closed)) if closed > 0 else most


def _conjugate(
    gradient: Float[Tensor, "P"], before: Float[Tensor, "P"], direction: Float[Tensor, "P"]
) -> Float[Tensor, "P"]:
    """The next search direction: Polak and Ribiere's, which does not zigzag along narrow valleys.

    It starts over from the gradient where it would not lead downhill.
    """
    turned = float(gradient @ (gradient - before)) / max(float(before @ before), 1e-24)
    found = gradient + max(turned, 0.0) * direction
    return found if float(found @ gradient) > 0 else gradient.clone()


def _projectors(
    runtime: BaseRuntime,
    adapter: BankedAdapter,
    protect: Sequence[TrainingExample],
    ridge: float,
    moving: Collection[str],
) -> dict[str, NullSpaceProjector]:
    """One shield per layer that moves; layers that see the same input share theirs."""
    tokenizer = runtime.tokenizer
    prompts = [tokenizer.anchor_conversation(e.input) for e in protect]
    sequences = [tokenizer.encode_pair(p, e.output) for p, e in zip(prompts, protect, strict=True)]
    acted = [len(s) - adapter.first_adapted_token(len(s.prompt)) for s in sequences]
    run = next(split_by_tokens(acted, SHIELD_TOKENS), [])
    if not run:
        return {}
    made: dict[int, NullSpaceProjector] = {}
    inputs = collect_layer_inputs(runtime, [sequences[i] for i in run], adapter)
    for x in (inputs[path] for path in moving):
        if id(x) not in made:
            made[id(x)] = NullSpaceProjector.against(x.reshape(-1, x.shape[-1]).float(), ridge)
    return {path: made[id(inputs[path])] for path in moving}


def _length(adapter: BankedAdapter) -> float:
    """The Euclidean length of all A factors together."""
    return math.sqrt(
        sum(float(a.square().sum()) for a, _ in adapter.split_by_layer(adapter.master).values())
    )


def _rank_deficient(
    adapter: BankedAdapter,
    shields: Mapping[str, NullSpaceProjector],
    moving: Collection[str],
    ridge: float,
) -> dict[str, NullSpaceProjector | None]:
    """Layers whose B leads nowhere yet, or not everywhere it could: there B moves as well.

    Where it is zero, A is shielded at its old length, which changes no output. Elsewhere B is kept off
    what A makes of the protected inputs, A x, as A is off the inputs.
    """
    young: dict[str, NullSpaceProjector | None] = {}
    for path, (a, b) in adapter.split_by_layer(adapter.master).items():
        if path not in moving or _full(b):
            continue
        young[path] = None
        if path in shields and b.any():
            young[path] = NullSpaceProjector.against(shields[path].x @ a.T, ridge)
        elif path in shields:
            kept = shields[path](a)
            a.copy_(kept * (a.norm() / kept.norm().clamp(min=1e-12)))
    adapter.publish()
    return young


def _full(b: Float[Tensor, "R O"]) -> bool:
    """Whether B leads everywhere it can: what A puts into any of its R directions comes out apart."""
    return int(torch.linalg.matrix_rank(b.float(), rtol=SMALL)) == min(b.shape)


def _projector(
    adapter: BankedAdapter,
    gradient: Float[Tensor, "P"],
    shields: Mapping[str, NullSpaceProjector],
    young: Mapping[str, NullSpaceProjector | None],
) -> None:
    """Keep of a gradient what may move: A off the protected inputs, B off what A makes of them."""
    for path, (a, b) in adapter.split_by_layer(gradient).items():
        if (shield := young.get(path)) is not None:
            b.copy_(shield(b.T).T)
        if path in shields:
            a.copy_(shields[path](a))
