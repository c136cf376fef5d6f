"""Merge strategies as a table: (preprocess) x sparsify x consensus x normalise, over [T, M, N] stacks.

The components follow mergekit's implementation of TIES and DARE, plus an optional step before them that
orthogonalises the parents. The caller decides what the entries of a stack are: entries of the full
updates, or of their small cores.
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

SparsifyRows: TypeAlias = Callable[[Tensor], Tensor]
Sparsify: TypeAlias = Callable[[Tensor, float, torch.Generator], SparsifyRows]
Consensus: TypeAlias = Callable[[Tensor], Tensor | None]
Normalise: TypeAlias = Callable[[Tensor, Tensor], Tensor | float]
Preprocess: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rule:
    """How a stack of updates is merged into one.

    sparsify    takes the whole stack and returns a function that sparsifies any of its rows.
    consensus   returns which weighted entries count [T, M, N]; None counts all.
    normalise   returns the divisor of the sum of the weighted entries.
    preprocess  transforms the stack first, if given.
    """

    sparsify: Sparsify
    consensus: Consensus
    normalise: Normalise
    preprocess: Preprocess | None = None


def apply_rule(
    rule: Rule,
    stack: Float[Tensor, "T M N"],
    weights: Float[Tensor, "T"],
    density: float,
    generator: torch.Generator,
) -> Float[Tensor, "M N"]:
    """Merge a stack by a rule, a block of rows at a time."""
    if rule.preprocess:
        stack = rule.preprocess(stack)
    sparsify_rows = rule.sparsify(stack, density, generator)
    return torch.cat(
        [_merge_rows(rule, sparsify_rows(rows), weights) for rows in stack.split(_ROWS_PER_BLOCK, dim=1)]
    )


def _merge_rows(
    rule: Rule, sparse: Float[Tensor, "T M N"], weights: Float[Tensor, "T"]
) -> Float[Tensor, "M N"]:
    weighted = sparse * weights[:, None, None]
    is_counted = rule.consensus(weighted)
    if is_counted is not None:
        weighted = torch.where(is_counted, weighted, 0.0)
    return weighted.sum(0) / rule.normalise(weighted, weights)


_ROWS_PER_BLOCK = 64
"""Rows merged at a time. A small block stays in the processor's cache, which is several times faster."""


_NOISE_SHARE = 1e-5
"""Singular values below this share of the largest are rounding errors, so their vectors are dropped."""


def orthogonalise(stack: Float[Tensor, "T M N"]) -> Float[Tensor, "T M N"]:
    """Make the singular vectors of the parents orthogonal to each other's, with unchanged singular
    values.

    The left singular vectors of all parents, as columns of one matrix, are replaced by the nearest
    matrix with orthonormal columns; the right ones likewise. A direction that several parents share is
    divided among them, so that the copies of one adapter add up to that adapter.
    """
    u, s, vh = torch.linalg.svd(stack, full_matrices=False)
    is_direction = s > _NOISE_SHARE * s.amax()  # [T, R]
    left_vectors = _nearest_orthonormal(u.mT[is_direction].T)
    right_vectors = _nearest_orthonormal(vh[is_direction].T)
    counts = is_direction.sum(1).tolist()
    parts = zip(
        left_vectors.split(counts, 1),
        s[is_direction].split(counts),
        right_vectors.split(counts, 1),
        strict=True,
    )
    return torch.stack([(a * values) @ b.T for a, values, b in parts])


def _nearest_orthonormal(columns: Float[Tensor, "M R"]) -> Float[Tensor, "M R"]:
    """The nearest matrix with orthonormal columns, within the span of the columns."""
    u, s, vh = torch.linalg.svd(columns, full_matrices=False)
    is_direction = s > _NOISE_SHARE * s.amax() if s.numel() else s > 0
    return u[:, is_direction] @ vh[is_direction]


def keep_all(stack: Float[Tensor, "T M N"], density: float, generator: torch.Generator) -> SparsifyRows:
    """Keep every entry."""
    return lambda rows: rows


def keep_largest(
    stack: Float[Tensor, "T M N"], density: float, generator: torch.Generator
) -> SparsifyRows:
    """Keep the `density` share of each parent's entries with the largest magnitude."""
    drop = stack[0].numel() - math.ceil(density * stack[0].numel())
    if drop == 0:
        return lambda rows: rows
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # NumPy selects without the GIL
        magnitudes = list(threads.map(lambda parent: _nth_smallest(parent, drop), stack))
    thresholds = torch.tensor(magnitudes, dtype=stack.dtype)
    return lambda rows: torch.where(rows.abs() > thresholds[:, None, None], rows, 0.0)


def _nth_smallest(entries: Float[Tensor, "M N"], n: int) -> float:
    """The n-th smallest magnitude, from 1."""
    magnitudes = entries.abs().flatten().numpy()
    magnitudes.partition(n - 1)
    return float(magnitudes[n - 1])


def drop_random(
    stack: Float[Tensor, "T M N"], density: float, generator: torch.Generator
) -> SparsifyRows:
    """Keep each entry with probability `density`, scaled so that the mean stays the same."""
    return lambda rows: rows * (torch.rand(rows.shape, generator=generator) < density) / density


def count_all(weighted: Float[Tensor, "T M N"]) -> None:
    """Count all entries."""


def majority_sign(weighted: Float[Tensor, "T M N"]) -> Bool[Tensor, "T M N"]:
    """Count the entries that have the sign of the parents' sum."""
    return weighted * weighted.sum(0) > 0


def divide_by_all_weights(weighted: Float[Tensor, "T M N"], weights: Float[Tensor, "T"]) -> float:
    """Divide by the weights of all parents, whether or not their entry was kept."""
    return float(weights.abs().sum())


def divide_by_present_weights(
    weighted: Float[Tensor, "T M N"], weights: Float[Tensor, "T"]
) -> Float[Tensor, "M N"]:
    """Divide each entry by the weights of the parents whose entry was kept."""
    present = torch.tensordot(weights.abs(), (weighted != 0).to(weighted.dtype), 1)
    return torch.where(present > 0, present, 1.0)


def divide_by_one(weighted: Float[Tensor, "T M N"], weights: Float[Tensor, "T"]) -> float:
    """Leave the weighted sum as it is."""
    return 1.0


RULES: dict[MergeStrategy, Rule] = {
    MergeStrategy.AVERAGE: Rule(keep_all, count_all, divide_by_all_weights),
    MergeStrategy.WEIGHTED: Rule(keep_all, count_all, divide_by_all_weights),
    MergeStrategy.TASK_ARITHMETIC: Rule(keep_all, count_all, divide_by_one),
    MergeStrategy.TSV: Rule(keep_all, count_all, divide_by_one, orthogonalise),
    MergeStrategy.MAGNITUDE: Rule(keep_largest, count_all, divide_by_all_weights),
    MergeStrategy.TIES: Rule(keep_largest, majority_sign, divide_by_present_weights),
    MergeStrategy.DARE: Rule(drop_random, count_all, divide_by_all_weights),
    MergeStrategy.DARE_TIES: Rule(drop_random, majority_sign, divide_by_all_weights),
}
"""DARE_TIES divides by all parents, because DARE's scaling already compensates for dropped entries."""
