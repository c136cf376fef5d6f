"""What adapters add to one linear layer's output, and its derivative, written out.

y += scale * (x A^T) B^T, with A [R, I] and B^T [R, O]. The derivatives of A and B go straight into the
`.grad` of factors that are autograd leaves (`BankedAdapter.training`); none is ever computed for the
frozen layer's own weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ouroboros.lora.transfer import to_device

Factors = tuple[Tensor, Tensor]
"""A [R, I] and B^T [R, O] of one layer, as it sees them."""


@runtime_checkable
class LayerUpdate(Protocol):
    """What one adapter, or several, add to a layer's output."""

    def apply(self, x: Float[Tensor, "T I"], y: Float[Tensor, "T O"]) -> Any:
        """Add to `y` in place; returns what `backward` wants."""
        ...

    def backward(
        self,
        kept: Any,
        x: Float[Tensor, "T I"],
        dy: Float[Tensor, "T O"],
        dx: Float[Tensor, "T I"] | None,
    ) -> None:
        """Add to the factors' gradients, and to `dx` where it is wanted."""
        ...

    @property
    def trained_factor(self) -> Tensor | None:
        """A factor that wants a gradient, if one does."""
        ...


@dataclass(frozen=True)
class LoraUpdate:
    """The update of the tokens in `span` by one adapter."""

    span: slice
    factors: Factors
    scale: float

    def apply(self, x: Float[Tensor, "T I"], y: Float[Tensor, "T O"]) -> Float[Tensor, "N R"]:
        a, b = (f.detach() for f in self.factors)
        low = x[self.span] @ a.T
        y[self.span].addmm_(low, b, alpha=self.scale)
        return low

    def backward(
        self,
        kept: Float[Tensor, "N R"],
        x: Float[Tensor, "T I"],
        dy: Float[Tensor, "T O"],
        dx: Float[Tensor, "T I"] | None,
    ) -> None:
        a, b = (f.detach() for f in self.factors)
        into_a, into_b = (f.grad for f in self.factors)
        dy = dy[self.span]
        dlow = dy @ b.T
        if into_b is not None:
            into_b.addmm_(kept.T, dy, alpha=self.scale)
        if into_a is not None:
            into_a.addmm_(dlow.T, x[self.span], alpha=self.scale)
        if dx is not None:
            dx[self.span].addmm_(dlow, a, alpha=self.scale)

    @property
    def trained_factor(self) -> Tensor | None:
        return _trained(self.factors)


@dataclass(frozen=True)
class Ragged:
    """The tokens of S adapters side by side: of each adapter at most W, in S rows of W places.

    source [S * W]  the token at each place; past an adapter's last one, that one again.
    places [K]      where each of the K tokens stands; tokens [K]  which one it is.
    inside [S, W, 1]  whether a place holds a token of its own.
    run            all tokens, where they follow each other.
    """

    source: Int[Tensor, "P"]
    places: Int[Tensor, "K"]
    tokens: Int[Tensor, "K"]
    inside: Bool[Tensor, "S W 1"]
    run: slice | None

    @classmethod
    def of(cls, adapters: Sequence[Sequence[range]], device: torch.device) -> "Ragged":
        """For adapters with these spans of tokens."""
        own = [torch.cat([torch.arange(s.start, s.stop) for s in spans]) for spans in adapters]
        width = max(map(len, own))
        reach = torch.arange(width)
        spans = [s for spans in adapters for s in spans]
        joined = all(a.stop == b.start for a, b in pairwise(spans))
        return cls(
            source=to_device(torch.cat([o[reach.clamp(max=len(o) - 1)] for o in own]), device),
            places=to_device(
                torch.cat([reach[: len(o)] + i * width for i, o in enumerate(own)]), device
            ),
            tokens=to_device(torch.cat(own), device),
            inside=to_device(torch.stack([reach < len(o) for o in own])[:, :, None], device),
            run=slice(spans[0].start, spans[-1].stop) if joined else None,
        )

    def spread(self, x: Float[Tensor, "T M"]) -> Float[Tensor, "S W M"]:
        return x.index_select(0, self.source).unflatten(0, self.inside.shape[:2])

    def add(self, parts: Float[Tensor, "S W M"], y: Float[Tensor, "T M"], scale: float) -> None:
        """Add each token's part to `y` in place."""
        found = parts.flatten(0, 1).index_select(0, self.places)
        if self.run is None:
            y.index_add_(0, self.tokens, found, alpha=scale)
        else:
            y[self.run].add_(found, alpha=scale)


@dataclass(frozen=True)
class BatchedLoraUpdate:
    """The updates by S adapters of one rank and scale: one batched product for all of them.

    What a product of few tokens costs is its call, and there are six for each adapter and layer.
    """

    rows: Ragged
    factors: Sequence[Factors]
    scale: float

    def apply(self, x: Float[Tensor, "T I"], y: Float[Tensor, "T O"]) -> tuple[Tensor, Tensor]:
        own = self.rows.spread(x)
        low = torch.bmm(own, self._a.transpose(1, 2)).mul_(self.rows.inside)
        self.rows.add(torch.bmm(low, self._b), y, self.scale)
        return own, low

    def backward(
        self,
        kept: tuple[Tensor, Tensor],
        x: Float[Tensor, "T I"],
        dy: Float[Tensor, "T O"],
        dx: Float[Tensor, "T I"] | None,
    ) -> None:
        own, low = kept
        dy = self.rows.spread(dy)
        dlow = torch.bmm(dy, self._b.transpose(1, 2)).mul_(self.rows.inside)
        into_a, into_b = ([f.grad for f in factors] for factors in zip(*self.factors, strict=True))
        _accumulate_gradients(into_b, low, dy, self.scale)
        _accumulate_gradients(into_a, dlow, own, self.scale)
        if dx is not None:
            self.rows.add(torch.bmm(dlow, self._a), dx, self.scale)

    @property
    def trained_factor(self) -> Tensor | None:
        return _trained(self.factors[0])

    @cached_property
    def _a(self) -> Float[Tensor, "S R I"]:
        return torch.stack([a.detach() for a, _ in self.factors])

    @cached_property
    def _b(self) -> Float[Tensor, "S R O"]:
        return torch.stack([b.detach() for _, b in self.factors])


def find_trained_factor(updates: Sequence[LayerUpdate]) -> Tensor | None:
    """A factor that wants a gradient, if one does."""
    return next((t for u in updates if (t := u.trained_factor) is not None), None)


def _trained(factors: Factors) -> Tensor | None:
    return next((f for f in factors if f.requires_grad), None)


def _accumulate_gradients(
    grads: Sequence[Tensor | None], low: Float[Tensor, "S W R"], x: Float[Tensor, "S W M"], scale: float
) -> None:
    """Add each adapter's low^T x to its gradient, where they have any: they are alike."""
    into = [grad for grad in grads if grad is not None]
    if into:
        found = list(torch.bmm(low.transpose(1, 2), x))
        torch._foreach_add_(into, found, alpha=scale)  # type: ignore[attr-defined]  # a public operation
