"""Encode a layer's factors as stored tensors, and decode them. `size.layer_entries` names the tensors.

Integers are symmetric and rounded to nearest. Their matrices are [R, N]: A as it is, B transposed, so
that a row is one component of the update. INT8 has one scale per row; INT4 one per 32 neighbours in a
row, which keeps one large value from costing the others their precision.
"""

from collections.abc import Mapping

import torch
from jaxtyping import BFloat16, Float, Int8, UInt8
from torch import Tensor
from torch.nn.functional import pad

from ouroboros.domain.weights import Precision
from ouroboros.lora.size import INT4_GROUP
from ouroboros.lora.weights import LowRank


def encode(low: LowRank, precision: Precision) -> dict[str, Tensor]:
    """Return the tensors that store a layer's factors, by name suffix (`lora_A.weight`, ...)."""
    if precision is Precision.INT8:
        parts = {f: to_int8(m) for f, m in (("lora_A", low.a), ("lora_B", low.b.T))}
    elif precision is Precision.INT4:
        parts = {f: to_int4(m) for f, m in (("lora_A", low.a), ("lora_B", low.b.T))}
    else:
        return {"lora_A.weight": low.a, "lora_B.weight": low.b}
    numbers = {f"{f}.{precision.value}": pair[0] for f, pair in parts.items()}
    return numbers | {f"{f}.scale": pair[1] for f, pair in parts.items()}


def decode(tensors: Mapping[str, Tensor], scale: float) -> LowRank:
    """Return the factors that `encode` stored, in float32."""
    if "lora_A.weight" in tensors:
        return LowRank(tensors["lora_A.weight"].float(), tensors["lora_B.weight"].float(), scale)
    restore, kind = (from_int8, "int8") if "lora_A.int8" in tensors else (from_int4, "int4")
    a, b = (restore(tensors[f"{f}.{kind}"], tensors[f"{f}.scale"]) for f in ("lora_A", "lora_B"))
    return LowRank(a, b.T.contiguous(), scale)


def to_int8(matrix: Float[Tensor, "R N"]) -> tuple[Int8[Tensor, "R N"], Float[Tensor, "R 1"]]:
    """Integers in [-127, 127] and each row's scale."""
    scale = matrix.abs().amax(1, keepdim=True) / 127
    return (matrix / _nonzero_divisor(scale)).round().to(torch.int8), scale


def from_int8(numbers: Int8[Tensor, "R N"], scale: Float[Tensor, "R 1"]) -> Float[Tensor, "R N"]:
    """Invert `to_int8`, up to rounding."""
    return numbers.float() * scale


def to_int4(matrix: Float[Tensor, "R N"]) -> tuple[UInt8[Tensor, "R H"], BFloat16[Tensor, "R G"]]:
    """Two numbers in [-7, 7] per byte, the even column's low; and each group's scale. H = N / 2."""
    rows, width = matrix.shape
    grouped = pad(matrix, (0, -width % INT4_GROUP)).view(rows, -1, INT4_GROUP)
    scale = (grouped.abs().amax(2) / 7).bfloat16()
    numbers = (grouped / _nonzero_divisor(scale.float())[..., None]).round().clamp(-7, 7)
    codes = (numbers.view(rows, -1)[:, :width] + 8).to(torch.uint8)
    return codes[:, 0::2] | codes[:, 1::2] << 4, scale


def from_int4(codes: UInt8[Tensor, "R H"], scale: BFloat16[Tensor, "R G"]) -> Float[Tensor, "R N"]:
    """Invert `to_int4`, up to rounding."""
    numbers = torch.stack([codes & 15, codes >> 4], dim=2).flatten(1).float() - 8
    return numbers * scale.float().repeat_interleave(INT4_GROUP, dim=1)[:, : numbers.shape[1]]


def _nonzero_divisor(scale: Tensor) -> Tensor:
    """Replace zero scales by 1, so that rows of zeros stay zeros."""
    return torch.where(scale > 0, scale, 1.0)
