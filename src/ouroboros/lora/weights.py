"""An adapter's weights: one low-rank update per adapted layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """One layer's update D = scale * B A, as its factors. R is the rank; I and O are its in and out."""

    a: Float[Tensor, "R I"]
    b: Float[Tensor, "O R"]
    scale: float

    @property
    def rank(self) -> int:
        """The rank of the product B A."""
        return self.a.shape[0]

    def delta(self) -> Float[Tensor, "O I"]:
        """The update as one dense matrix."""
        return self.scale * (self.b @ self.a)


LoraWeights: TypeAlias = Mapping[str, LowRank]
"""Updates by module path, named as the base names it: `model.layers.0.self_attn.q_proj`."""
