"""Merge adapters by their updates D = scale * B A, never by A and B separately.

The same update has many factorisations (B G, inverse(G) A), so averaging or comparing factors entry by
entry gives arbitrary results. Here the parents' factors of a layer are first expressed in common
orthonormal bases, D_i = L C_i N^T, where the size of the cores C_i is at most the sum of the ranks.
Linear strategies merge the cores without loss. Entrywise strategies work on the cores or on the full
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
from ouroboros.lora.lowrank import FactoredUpdate, approximate_to_rank, core_space, factorise_to_rank
from ouroboros.lora.merge_rules import RULES, apply_rule
from ouroboros.lora.weights import LoraWeights, LowRank


@dataclass(frozen=True)
class MergeOutcome:
    """The merged weights, with scale 1.

    relative_error  norm of the truncation error over the norm of the exact merged update.
    lossless_rank   the smallest rank without truncation error (merged in full updates: an upper bound).
    """

    weights: LoraWeights
    relative_error: float
    lossless_rank: int


def merge(parents: Sequence[LoraWeights], recipe: MergeRecipe, rank: int | None = None) -> MergeOutcome:
    """Merge adapters of one base by a recipe, truncated to `rank`.

    Parents may differ in rank, scaling and layers; a layer that a parent does not adapt counts as an
    update of zero. Without a `rank` the merge is exact, except where entries of full updates are merged:
    there the rank is the sum of the parents' ranks. Raises `InvalidConfig` for a recipe that does not
    fit the parents, and `InvalidAdapter` for values that are not finite or layers of different widths.
    """
    return collect_layers(merge_layers(parents, recipe, rank))


def merge_layers(
    parents: Sequence[LoraWeights], recipe: MergeRecipe, rank: int | None = None
) -> Iterator[tuple[str, FactoredUpdate]]:
    """Merge layer by layer, so that the caller can stop between layers. Yields path and update."""
    recipe.check()
    weights = torch.tensor(recipe.resolve_weights(len(parents)), dtype=torch.float64)
    if rank is not None and rank < 1:
        raise InvalidConfig(f"rank is {rank}.", hint="Give 1 or more.")
    for path in sorted({path for parent in parents for path in parent}):
        yield path, _merge_layer(path, _layer_updates(path, parents), weights, recipe, rank)


def collect_layers(layers: Iterable[tuple[str, FactoredUpdate]]) -> MergeOutcome:
    """Combine the merged layers into one outcome."""
    merged = dict(layers)
    squared_norm = math.fsum(layer.norm**2 for layer in merged.values())
    squared_error = math.fsum(layer.error_norm**2 for layer in merged.values())
    return MergeOutcome(
        weights={path: layer.low for path, layer in merged.items()},
        relative_error=math.sqrt(squared_error / squared_norm) if squared_norm else 0.0,
        lossless_rank=max(layer.lossless_rank for layer in merged.values()),
    )


def _layer_updates(path: str, parents: Sequence[LoraWeights]) -> list[LowRank | None]:
    """Return each parent's update of one layer, or None.

    Raises `InvalidAdapter` if they cannot be merged.
    """
    layer = [parent.get(path) for parent in parents]
    present = [low for low in layer if low is not None]
    if len({(low.a.shape[1], low.b.shape[0]) for low in present}) > 1:
        raise InvalidAdapter(
            f"The adapters' {path} have different widths.", hint="Merge adapters of one base model."
        )
    for low in present:
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
) -> FactoredUpdate:
    rule, generator = RULES[recipe.strategy], _layer_generator(recipe.seed, path)
    if recipe.space is MergeSpace.CORE or not recipe.strategy.is_entrywise:
        space = core_space(layer)
        core = apply_rule(rule, space.cores, weights, recipe.density, generator) * recipe.scale
        return factorise_to_rank(space, core, rank)
    present = [low for low in layer if low is not None]
    stack = torch.zeros(len(layer), present[0].b.shape[0], present[0].a.shape[1])
    for update, low in zip(stack, layer, strict=True):
        if low is not None:
            torch.matmul(low.b.float() * low.scale, low.a.float(), out=update)
    update = apply_rule(rule, stack, weights.float(), recipe.density, generator) * recipe.scale
    return approximate_to_rank(update, rank or sum(low.rank for low in present), generator)


def _layer_generator(seed: int, path: str) -> torch.Generator:
    """A random generator that depends only on the seed and the layer's path."""
    digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
