"""What adapters add to one linear layer's output, and its derivative, written out.

y += scale * (x A^T) B^T, with A [R, I] and B^T [R, O]. The derivatives of A and B go straight into the
`.grad` of factors that are autograd leaves (`BankedAdapter.training`); none is ever computed for the
frozen layer's own weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Delta:
    """The update of the tokens in `span`: factors as the layers see them.

    `scale` is one number, or one for each token and column [N, R]: then columns may belong to different
    adapters, each zero at the tokens of the others.
    """

    span: slice
    a: Float[Tensor, "R I"]
    b: Float[Tensor, "R O"]
    scale: float | Float[Tensor, "N R"]

    def add(self, x: Float[Tensor, "T I"], y: Float[Tensor, "T O"]) -> Float[Tensor, "N R"]:
        """Add to `y` in place; returns x A^T, which `back` wants."""
        a, b, factor = self.a.detach(), self.b.detach(), self._factor
        low = self._masked(x[self.span] @ a.T)
        y[self.span].addmm_(low, b, alpha=factor)
        return low

    def back(
        self,
        low: Float[Tensor, "N R"],
        x: Float[Tensor, "T I"],
        dy: Float[Tensor, "T O"],
        dx: Float[Tensor, "T I"] | None,
    ) -> None:
        """Add to the factors' gradients, and to `dx` where it is wanted."""
        a, b, factor = self.a.detach(), self.b.detach(), self._factor
        dy = dy[self.span]
        dlow = self._masked(dy @ b.T)
        if self.b.grad is not None:
            self.b.grad.addmm_(low.T, dy, alpha=factor)
        if self.a.grad is not None:
            self.a.grad.addmm_(dlow.T, x[self.span], alpha=factor)
        if dx is not None:
            dx[self.span].addmm_(dlow, a, alpha=factor)

    @property
    def _factor(self) -> float:
        return self.scale if isinstance(self.scale, float) else 1.0

    def _masked(self, low: Float[Tensor, "N R"]) -> Float[Tensor, "N R"]:
        return low.mul_(self.scale) if isinstance(self.scale, Tensor) else low


def trained(deltas: Sequence[Delta]) -> Tensor | None:
    """A factor that wants a gradient, if one does."""
    return next((d.a for d in deltas if d.a.requires_grad), None)
