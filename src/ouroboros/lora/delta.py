"""What adapters add to the output of one linear layer, with the derivative written out.

y += scale * (x A^T) B^T, with A [R, I] and B^T [R, O]. The derivatives of A and B are added to the
`.grad` of factors that are autograd leaves (`BankedAdapter.training`). None is computed for the frozen
layer's own weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ouroboros.lora.ragged import RaggedLayout
from ouroboros.lora.transfer import to_device

Factors = tuple[Tensor, Tensor]
"""A [R, I] and B^T [R, O] of one layer, as that layer multiplies with them."""


@runtime_checkable
class LayerUpdate(Protocol):
    """What one or more adapters add to the output of a layer."""

    def apply(self, x: Float[Tensor, "T I"], y: Float[Tensor, "T O"]) -> Any:
        """Add the update for x to y in place. Returns what `backward` takes as `saved`."""
        ...

    def backward(
        self,
        saved: Any,
        x: Float[Tensor, "T I"],
        dy: Float[Tensor, "T O"],
        dx: Float[Tensor, "T I"] | None,
    ) -> None:
        """Add the derivatives to the factors' gradients, and to `dx` where that is given."""
        ...

    @property
    def trained_factor(self) -> Tensor | None:
        """A factor that requires a gradient, if one does."""
        ...


@dataclass(frozen=True)
class LoraUpdate:
    """The update of the N tokens in `span` by one adapter."""

    span: slice
    factors: Factors
    scale: float

    def apply(self, x: Float[Tensor, "T I"], y: Float[Tensor, "T O"]) -> Float[Tensor, "N R"]:
        """Add the update to y in place; returns x A^T, which `backward` needs."""
        a, b = (f.detach() for f in self.factors)
        low = x[self.span] @ a.T
        y[self.span].addmm_(low, b, alpha=self.scale)
        return low

    def backward(
        self,
        saved: Float[Tensor, "N R"],
        x: Float[Tensor, "T I"],
        dy: Float[Tensor, "T O"],
        dx: Float[Tensor, "T I"] | None,
    ) -> None:
        """Add to the gradients of the trained factors, and to dx unless it is None."""
        a, b = (f.detach() for f in self.factors)
        grad_a, grad_b = (f.grad for f in self.factors)
        dy = dy[self.span]
        dlow = dy @ b.T
        if grad_b is not None:
            grad_b.addmm_(saved.T, dy, alpha=self.scale)
        if grad_a is not None:
            grad_a.addmm_(dlow.T, x[self.span], alpha=self.scale)
        if dx is not None:
            dx[self.span].addmm_(dlow, a, alpha=self.scale)

    @property
    def trained_factor(self) -> Tensor | None:
        """A factor that is being trained, or None if neither is."""
        return _trained_of(self.factors)


@dataclass(frozen=True)
class AdapterTokens:
    """The tokens of S adapters side by side, at most W of each.

    inside [S, W, 1]  whether a padded position holds a token of its own.
    run               the slice of all tokens, where they follow each other in the batch.
    """

    layout: RaggedLayout
    inside: Bool[Tensor, "S W 1"]
    run: slice | None

    @classmethod
    def of(cls, adapters: Sequence[Sequence[range]], device: torch.device) -> "AdapterTokens":
        """For adapters with these spans of tokens."""
        layout = RaggedLayout.of(adapters, device)
        offsets = torch.arange(layout.width)
        inside = torch.stack([offsets < sum(map(len, spans)) for spans in adapters])
        in_order = [s for spans in adapters for s in spans]
        joined = all(a.stop == b.start for a, b in pairwise(in_order))
        run = slice(in_order[0].start, in_order[-1].stop) if joined else None
        return cls(layout, to_device(inside[:, :, None], device), run)

    def pad(self, x: Float[Tensor, "T M"]) -> Float[Tensor, "S W M"]:
        """Each adapter's tokens as one matrix."""
        return self.layout.pad(x).unflatten(0, self.inside.shape[:2])

    def add(self, padded: Float[Tensor, "S W M"], y: Float[Tensor, "T M"], scale: float) -> None:
        """Add each token's row, times `scale`, to y in place."""
        rows = self.layout.unpad(padded.flatten(0, 1))
        if self.run is None:
            y.index_add_(0, self.layout.tokens, rows, alpha=scale)
        else:
            y[self.run].add_(rows, alpha=scale)


@dataclass(frozen=True)
class BatchedLoraUpdate:
    """The updates by S adapters of one rank and scale: one batched product for all of them.

    The cost of a product over few tokens is its call, and each adapter and layer takes six.
    """

    tokens: AdapterTokens
    factors: Sequence[Factors]
    scale: float

    def apply(self, x: Float[Tensor, "T I"], y: Float[Tensor, "T O"]) -> tuple[Tensor, Tensor]:
        """Add the updates to y in place; returns padded x and x A^T, which `backward` needs."""
        padded_x = self.tokens.pad(x)
        # Zero the padding here: it repeats tokens, which would count twice in the gradient of B.
        low = torch.bmm(padded_x, self._a.transpose(1, 2)).mul_(self.tokens.inside)
        self.tokens.add(torch.bmm(low, self._b), y, self.scale)
        return padded_x, low

    def backward(
        self,
        saved: tuple[Tensor, Tensor],
        x: Float[Tensor, "T I"],
        dy: Float[Tensor, "T O"],
        dx: Float[Tensor, "T I"] | None,
    ) -> None:
        """Add to the gradients of the trained factors, and to dx unless it is None."""
        padded_x, low = saved
        padded_dy = self.tokens.pad(dy)
        # Zero the padding again, for the gradient of A.
        dlow = torch.bmm(padded_dy, self._b.transpose(1, 2)).mul_(self.tokens.inside)
        grads_a, grads_b = ([f.grad for f in factors] for factors in zip(*self.factors, strict=True))
        _accumulate_gradients(grads_b, low, padded_dy, self.scale)
        _accumulate_gradients(grads_a, dlow, padded_x, self.scale)
        if dx is not None:
            self.tokens.add(torch.bmm(dlow, self._a), dx, self.scale)

    @property
    def trained_factor(self) -> Tensor | None:
        """A factor that is being trained, or None if neither is."""
        return _trained_of(self.factors[0])

    @cached_property
    def _a(self) -> Float[Tensor, "S R I"]:
        return torch.stack([a.detach() for a, _ in self.factors])

    @cached_property
    def _b(self) -> Float[Tensor, "S R O"]:
        return torch.stack([b.detach() for _, b in self.factors])


def find_trained_factor(updates: Sequence[LayerUpdate]) -> Tensor | None:
    """A factor that requires a gradient, if one does."""
    return next((t for u in updates if (t := u.trained_factor) is not None), None)


def _trained_of(factors: Factors) -> Tensor | None:
    return next((f for f in factors if f.requires_grad), None)


def _accumulate_gradients(
    grads: Sequence[Tensor | None], low: Float[Tensor, "S W R"], x: Float[Tensor, "S W M"], scale: float
) -> None:
    """Add each adapter's low^T x to its gradient. Either all of them have one or none has."""
    present = [grad for grad in grads if grad is not None]
    if present:
        products = list(torch.bmm(low.transpose(1, 2), x))
        torch._foreach_add_(present, products, alpha=scale)  # type: ignore[attr-defined]  # a public operation
