"""Linear algebra of low-rank updates: common bases, and best approximations at a given rank."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ouroboros.lora.weights import LowRank

_NOISE_SHARE = 1e-6
"""Singular values below this share of the largest are rounding errors of float32."""


@dataclass(frozen=True)
class CoreSpace:
    """Updates in common orthonormal bases: D_t = left C_t right^T, in float64 but for the bases."""

    left_basis: Float[Tensor, "O K"]
    cores: Float[Tensor, "T K L"]
    right_basis: Float[Tensor, "I L"]


@dataclass(frozen=True)
class FactoredUpdate:
    """A layer's merged update: factors, norm, norm of the truncation error, exact rank."""

    low: LowRank
    norm: float
    error_norm: float
    lossless_rank: int


def core_space(layer: Sequence[LowRank | None]) -> CoreSpace:
    """Express the updates of a layer (None: zero) in the bases that their factors span together.

    The bases are rotated to the left and right singular vectors of the concatenated updates (KnOTS,
    arXiv 2410.19735), which depend neither on the factorisations nor on the order of the parents.
    """
    present = [low for low in layer if low is not None]
    left_basis, from_left = torch.linalg.qr(
        torch.cat([low.b.float() * low.scale for low in present], dim=1)
    )
    right_basis, from_right = torch.linalg.qr(torch.cat([low.a.float() for low in present]).T)
    ranks = [low.rank for low in present]
    cores_of_present = iter(
        (b @ a.T)
        for b, a in zip(
            from_left.double().split(ranks, 1), from_right.double().split(ranks, 1), strict=True
        )
    )
    zero_core = torch.zeros(left_basis.shape[1], right_basis.shape[1], dtype=torch.float64)
    cores = torch.stack([zero_core if low is None else next(cores_of_present) for low in layer])
    u = torch.linalg.eigh(torch.einsum("tkl,tml->km", cores, cores)).eigenvectors
    v = torch.linalg.eigh(torch.einsum("tkl,tkm->lm", cores, cores)).eigenvectors
    return CoreSpace(left_basis @ u.float(), u.T @ cores @ v, right_basis @ v.float())


def factorise_to_rank(space: CoreSpace, core: Float[Tensor, "K L"], rank: int | None) -> FactoredUpdate:
    """The best approximation of left core right^T at a rank, or the exact update for None
    (Eckart-Young).
    """
    u, s, vh = torch.linalg.svd(core, full_matrices=False)
    lossless = max(1, int((s > _NOISE_SHARE * s[0]).sum()))
    cut_rank = min(rank or lossless, len(s))
    root = s[:cut_rank].sqrt()
    low = LowRank(
        a=(root[:, None] * vh[:cut_rank]).float() @ space.right_basis.T,
        b=space.left_basis @ (u[:, :cut_rank] * root).float(),
        scale=1.0,
    )
    return FactoredUpdate(low, float(s.norm()), float(s[cut_rank:].norm()), lossless)


def approximate_to_rank(
    update: Float[Tensor, "O I"], rank: int, generator: torch.Generator, depth: int = 3
) -> FactoredUpdate:
    """Approximate a dense update at a rank, by a block Krylov method (arXiv 1504.05477).

    A few products with the update find its leading singular vectors about as well as a full SVD.
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
    return FactoredUpdate(
        low, _frobenius_norm(update), _frobenius_norm(update - low.delta()), min(update.shape)
    )


def _frobenius_norm(matrix: Float[Tensor, "O I"]) -> float:
    """Sum row norms in float64: in float32, millions of squares lose four digits."""
    return float(matrix.norm(dim=1).double().norm())
