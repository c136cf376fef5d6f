"""Merging as a table: (untangle) x sparsify x consensus x normalise, over updates stacked as [T, M, N].

The pieces are those of mergekit's reading of TIES and DARE, and a step before them that turns the
parents out of each other's way; what a stack's entries stand for (entries of the full updates, or of
their small cores) is the caller's choice.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ouroboros.domain.merging import MergeStrategy

Thin: TypeAlias = Callable[[Tensor], Tensor]
Sparsify: TypeAlias = Callable[[Tensor, float, torch.Generator], Thin]
Consensus: TypeAlias = Callable[[Tensor], Tensor | None]
Normalise: TypeAlias = Callable[[Tensor, Tensor], Tensor | float]
Untangle: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rule:
    """How a stack of updates becomes one.

    sparsify   looks at a stack and says how any rows of it are thinned out.
    consensus  says which weighted entries count [T, M, N]; None counts all.
    normalise  gives what the sum of weighted entries is divided by.
    untangle   replaces the stack before all that, if it is there.
    """

    sparsify: Sparsify
    consensus: Consensus
    normalise: Normalise
    untangle: Untangle | None = None


def apply(
    rule: Rule,
    stack: Float[Tensor, "T M N"],
    weights: Float[Tensor, "T"],
    density: float,
    generator: torch.Generator,
) -> Float[Tensor, "M N"]:
    """Merge a stack by a rule."""
    if rule.untangle:
        stack = rule.untangle(stack)
    thin = rule.sparsify(stack, density, generator)
    return torch.cat([_agree(rule, thin(rows), weights) for rows in stack.split(_ROWS, dim=1)])


def _agree(
    rule: Rule, sparse: Float[Tensor, "T M N"], weights: Float[Tensor, "T"]
) -> Float[Tensor, "M N"]:
    weighted = sparse * weights[:, None, None]
    counts = rule.consensus(weighted)
    if counts is not None:
        weighted = torch.where(counts, weighted, 0.0)
    return weighted.sum(0) / rule.normalise(weighted, weights)


_ROWS = 64
"""Rows are merged a few at a time: they stay in the processor's cache, which is several times faster."""


_NOISE = 1e-5
"""Singular values below this share of the largest are rounding: what they belong to is no direction."""


def orthogonal(stack: Float[Tensor, "T M N"]) -> Float[Tensor, "T M N"]:
    """The parents with singular directions that are orthogonal to each other's, values as they were.

    All left directions side by side are replaced by the nearest matrix with orthonormal columns, and so
    are the right ones. A direction that several parents share is shared out: copies add up to the one.
    """
    u, s, vh = torch.linalg.svd(stack, full_matrices=False)
    there = s > _NOISE * s.amax()  # [T, R]
    left = _orthonormal(u.mT[there].T)
    right = _orthonormal(vh[there].T)
    counts = there.sum(1).tolist()
    parts = zip(left.split(counts, 1), s[there].split(counts), right.split(counts, 1), strict=True)
    return torch.stack([(a * values) @ b.T for a, values, b in parts])


def _orthonormal(columns: Float[Tensor, "M R"]) -> Float[Tensor, "M R"]:
    """The nearest matrix with orthonormal columns, as far as the columns are independent."""
    u, s, vh = torch.linalg.svd(columns, full_matrices=False)
    there = s > _NOISE * s.amax() if s.numel() else s > 0
    return u[:, there] @ vh[there]


def keep_all(stack: Float[Tensor, "T M N"], density: float, generator: torch.Generator) -> Thin:
    """Every entry."""
    return lambda rows: rows


def keep_largest(stack: Float[Tensor, "T M N"], density: float, generator: torch.Generator) -> Thin:
    """Of each parent, the `density` share of entries with the largest magnitude."""
    drop = stack[0].numel() - math.ceil(density * stack[0].numel())
    if drop == 0:
        return lambda rows: rows
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # NumPy selects without the GIL
        found = list(threads.map(lambda parent: _nth_smallest(parent, drop), stack))
    thresholds = torch.tensor(found, dtype=stack.dtype)
    return lambda rows: torch.where(rows.abs() > thresholds[:, None, None], rows, 0.0)


def _nth_smallest(entries: Float[Tensor, "M N"], n: int) -> float:
    """The n-th smallest magnitude, from 1."""
    magnitudes = entries.abs().flatten().numpy()
    magnitudes.partition(n - 1)
    return float(magnitudes[n - 1])


def drop_random(stack: Float[Tensor, "T M N"], density: float, generator: torch.Generator) -> Thin:
    """Each entry survives with probability `density`, scaled up so that the mean stays."""
    return lambda rows: rows * (torch.rand(rows.shape, generator=generator) < density) / density


def everyone(weighted: Float[Tensor, "T M N"]) -> None:
    """All entries count."""


def majority_sign(weighted: Float[Tensor, "T M N"]) -> Bool[Tensor, "T M N"]:
    """Entries count where they have the sign of the parents' sum."""
    return weighted * weighted.sum(0) > 0


def by_all(weighted: Float[Tensor, "T M N"], weights: Float[Tensor, "T"]) -> float:
    """The weights of all parents, whether an entry of theirs survived or not."""
    return float(weights.abs().sum())


def by_present(weighted: Float[Tensor, "T M N"], weights: Float[Tensor, "T"]) -> Float[Tensor, "M N"]:
    """At each entry, the weights of the parents that still have one there."""
    present = torch.tensordot(weights.abs(), (weighted != 0).to(weighted.dtype), 1)
    return torch.where(present > 0, present, 1.0)


def not_at_all(weighted: Float[Tensor, "T M N"], weights: Float[Tensor, "T"]) -> float:
    return 1.0


RULES: dict[MergeStrategy, Rule] = {
    MergeStrategy.AVERAGE: Rule(keep_all, everyone, by_all),
    MergeStrategy.WEIGHTED: Rule(keep_all, everyone, by_all),
    MergeStrategy.TASK_ARITHMETIC: Rule(keep_all, everyone, not_at_all),
    MergeStrategy.TSV: Rule(keep_all, everyone, not_at_all, orthogonal),
    MergeStrategy.MAGNITUDE: Rule(keep_largest, everyone, by_all),
    MergeStrategy.TIES: Rule(keep_largest, majority_sign, by_present),
    MergeStrategy.DARE: Rule(drop_random, everyone, by_all),
    MergeStrategy.DARE_TIES: Rule(drop_random, majority_sign, by_all),
}
"""DARE_TIES divides by all parents: DARE's scaling already makes up for the entries it drops."""
