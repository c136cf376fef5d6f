"""Linear algebra of low-rank updates: common bases, and the best approximation of a given rank."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ouroboros.lora.weights import LowRank

_NOISE = 1e-6
"""Singular values below this share of the largest are float32's rounding."""


@dataclass(frozen=True)
class CoreSpace:
    """Updates in common orthonormal bases: D_t = left C_t right^T, in float64 but for the bases."""

    left: Float[Tensor, "O K"]
    cores: Float[Tensor, "T K L"]
    right: Float[Tensor, "I L"]


@dataclass(frozen=True)
class Factored:
    """A layer's merged update: its factors, the norms of all and of what was cut, its true rank."""

    low: LowRank
    norm: float
    lost: float
    lossless_rank: int


def core_space(layer: Sequence[LowRank | None]) -> CoreSpace:
    """Express the updates of a layer (None: zero) in the bases that their factors span together.

    The bases are turned to the left and right singular vectors of all updates side by side (KnOTS,
    arXiv 2410.19735): these do not depend on how each was factorised, nor on the order of the parents.
    """
    there = [low for low in layer if low is not None]
    left, from_left = torch.linalg.qr(torch.cat([low.b.float() * low.scale for low in there], dim=1))
    right, from_right = torch.linalg.qr(torch.cat([low.a.float() for low in there]).T)
    ranks = [low.rank for low in there]
    found = iter(
        (b @ a.T)
        for b, a in zip(
            from_left.double().split(ranks, 1), from_right.double().split(ranks, 1), strict=True
        )
    )
    nothing = torch.zeros(left.shape[1], right.shape[1], dtype=torch.float64)
    cores = torch.stack([nothing if low is None else next(found) for low in layer])
    u = torch.linalg.eigh(torch.einsum("tkl,tml->km", cores, cores)).eigenvectors
    v = torch.linalg.eigh(torch.einsum("tkl,tkm->lm", cores, cores)).eigenvectors
    return CoreSpace(left @ u.float(), u.T @ cores @ v, right @ v.float())


def factorise(space: CoreSpace, core: Float[Tensor, "K L"], rank: int | None) -> Factored:
    """The best approximation of left core right^T of a rank, or all of it for None (Eckart-Young)."""
    u, s, vh = torch.linalg.svd(core, full_matrices=False)
    lossless = max(1, int((s > _NOISE * s[0]).sum()))
    kept = min(rank or lossless, len(s))
    root = s[:kept].sqrt()
    low = LowRank(
        a=(root[:, None] * vh[:kept]).float() @ space.right.T,
        b=space.left @ (u[:, :kept] * root).float(),
        scale=1.0,
    )
    return Factored(low, float(s.norm()), float(s[kept:].norm()), lossless)


def best_rank(
    update: Float[Tensor, "O I"], rank: int, generator: torch.Generator, depth: int = 3
) -> Factored:
    """The best approximation of a dense update of a rank, by a block Krylov method (arXiv 1504.05477).

    A few products with the update find its leading singular vectors as well as a full decomposition.
    """
    rank = min(rank, *update.shape)
    block = torch.randn(update.shape[1], min(rank + 8, *update.shape), generator=generator)
    blocks = [torch.linalg.qr(update @ block).Q]
    for _ in range(depth):
        blocks.append(torch.linalg.qr(update @ (update.T @ blocks[-1])).Q)
    basis = torch.linalg.qr(torch.cat(blocks, dim=1)).Q
    u, s, vh = torch.linalg.svd(basis.T @ update, full_matrices=False)
    root = s[:rank].sqrt()
    low = LowRank(a=root[:, None] * vh[:rank], b=basis @ (u[:, :rank] * root), scale=1.0)
    return Factored(low, _norm(update), _norm(update - low.delta()), min(update.shape))


def _norm(matrix: Float[Tensor, "O I"]) -> float:
    """Rows are summed up in float64: in float32, millions of squares lose four digits."""
    return float(matrix.norm(dim=1).double().norm())
