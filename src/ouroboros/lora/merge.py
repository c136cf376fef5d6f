"""Merging adapters: on their updates D = scale * B A, never on A and B apart.

The same update has many factorisations (B G, inverse(G) A), so whatever averages or compares factors
entry by entry depends on an accident. Here the parents' factors of a layer are first expressed in
common orthonormal bases, D_i = L C_i N^T, where the cores C_i are as small as the ranks added. Linear
strategies merge the cores without loss; those that look at single entries do it there, or in the full
updates.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ouroboros.domain.errors import InvalidAdapter, InvalidConfig
from ouroboros.domain.merging import MergeRecipe, MergeSpace
from ouroboros.lora.lowrank import Factored, best_rank, core_space, factorise
from ouroboros.lora.merge_rules import RULES, apply
from ouroboros.lora.weights import LoraWeights, LowRank


@dataclass(frozen=True)
class MergeOutcome:
    """The merged weights, with scale 1.

    relative_error  norm of what cutting to a rank lost, over the norm of the whole merged update.
    lossless_rank   the smallest rank at which it would be zero (merged in full updates: an upper bound).
    """

    weights: LoraWeights
    relative_error: float
    lossless_rank: int


def merge(parents: Sequence[LoraWeights], recipe: MergeRecipe, rank: int | None = None) -> MergeOutcome:
    """Merge adapters of one base by a recipe, cut to `rank`.

    Parents may differ in rank, scaling and layers; a layer that a parent does not adapt is an update of
    zero. Without a `rank` nothing is lost, but where entries of full updates are merged: there it is the
    parents' ranks added. Raises `InvalidConfig` for a recipe that does not fit the parents, and
    `InvalidAdapter` for numbers that are not finite or layers of different widths.
    """
    return gather(merge_layers(parents, recipe, rank))


def merge_layers(
    parents: Sequence[LoraWeights], recipe: MergeRecipe, rank: int | None = None
) -> Iterator[tuple[str, Factored]]:
    """`merge`, layer by layer, for those who want to stop in between."""
    recipe.check()
    weights = torch.tensor(recipe.resolve_weights(len(parents)), dtype=torch.float64)
    if rank is not None and rank < 1:
        raise InvalidConfig(f"rank is {rank}.", hint="Give 1 or more.")
    for path in sorted({path for parent in parents for path in parent}):
        yield path, _merge_layer(path, _layer(path, parents), weights, recipe, rank)


def gather(layers: Iterable[tuple[str, Factored]]) -> MergeOutcome:
    """The outcome of all layers."""
    merged = dict(layers)
    whole = math.fsum(layer.norm**2 for layer in merged.values())
    lost = math.fsum(layer.lost**2 for layer in merged.values())
    return MergeOutcome(
        weights={path: layer.low for path, layer in merged.items()},
        relative_error=math.sqrt(lost / whole) if whole else 0.0,
        lossless_rank=max(layer.lossless_rank for layer in merged.values()),
    )


def _layer(path: str, parents: Sequence[LoraWeights]) -> list[LowRank | None]:
    """Each parent's update of one layer, None where it has none; refuses what cannot be merged."""
    layer = [parent.get(path) for parent in parents]
    there = [low for low in layer if low is not None]
    if len({(low.a.shape[1], low.b.shape[0]) for low in there}) > 1:
        raise InvalidAdapter(
            f"The adapters' {path} have different widths.", hint="Merge adapters of one base model."
        )
    for low in there:
        if not (low.a.isfinite().all() and low.b.isfinite().all() and math.isfinite(low.scale)):
            raise InvalidAdapter(
                f"An adapter's {path} holds NaN or infinity.", hint="Roll back to a sound version."
            )
    return layer


def _merge_layer(
    path: str,
    layer: Sequence[LowRank | None],
    weights: Float[Tensor, "T"],
    recipe: MergeRecipe,
    rank: int | None,
) -> Factored:
    rule, generator = RULES[recipe.strategy], _generator(recipe.seed, path)
    if recipe.space is MergeSpace.CORE or not recipe.strategy.is_entrywise:
        space = core_space(layer)
        core = apply(rule, space.cores, weights, recipe.density, generator) * recipe.scale
        return factorise(space, core, rank)
    there = [low for low in layer if low is not None]
    stack = torch.zeros(len(layer), there[0].b.shape[0], there[0].a.shape[1])
    for update, low in zip(stack, layer, strict=True):
        if low is not None:
            torch.matmul(low.b.float() * low.scale, low.a.float(), out=update)
    update = apply(rule, stack, weights.float(), recipe.density, generator) * recipe.scale
    return best_rank(update, rank or sum(low.rank for low in there), generator)


def _generator(seed: int, path: str) -> torch.Generator:
    """A layer's own source of randomness, whatever other layers there are."""
    digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
