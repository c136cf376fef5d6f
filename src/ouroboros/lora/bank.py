"""The adapter bank: many LoRA adapters in one model, chosen token by token.

Each adapter in memory is one flat float32 row, its master: A [R, I] and B^T [R, O] of every adapted
layer, one after the other. A copy in the model's dtype is what the layers multiply with. So an optimizer
step, a cast or an upload is one operation, however many layers there are; adapters of different rank
and layers stand side by side without padding; and a row gives the same bits whatever the bank holds.

Which adapter a token belongs to travels with each call as a `Route`; nothing is ever "active". Within a
route, slot 0 is the base model, so that base and adapter rows share one batch.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ouroboros.lora.delta import Factors
from ouroboros.lora.transfer import CPU, to_device
from ouroboros.lora.weights import LowRank


@dataclass(frozen=True)
class _LayerSlice:
    """Where one layer's factors lie in an adapter's row."""

    start: int
    rank: int
    inputs: int
    outputs: int
    scale: float

    @property
    def stop(self) -> int:
        return self.start + self.rank * (self.inputs + self.outputs)

    def factors(self, row: Tensor) -> Factors:
        """Views into a row [P]."""
        middle = self.start + self.rank * self.inputs
        a = row[self.start : middle].view(self.rank, self.inputs)
        return a, row[middle : self.stop].view(self.rank, self.outputs)


_layouts: dict[tuple[tuple[str, _LayerSlice], ...], int] = {}
"""A number for each layout that there has been."""


class BankedAdapter:
    """One adapter in memory. `master [P]` is the truth in float32; `publish` shows it to the layers.

    Adapters of one `layout` have the same layers, ranks and scales. `trained_factors` says which of
    them a training moves: adapters that move different factors cannot share a product.

    `invocation_tokens`, where given, is how many of a prompt's last tokens the adapter acts on: the
    base alone runs those before them (activated LoRA, arXiv 2504.12397). The adapter always acts on the
    output.
    """

    def __init__(
        self,
        weights: Mapping[str, LowRank],
        dtype: torch.dtype = torch.float32,
        device: torch.device = CPU,
        invocation_tokens: int | None = None,
    ) -> None:
        self.invocation_tokens = invocation_tokens
        self.trained_factors: object = None
        self._training: tuple[Tensor, Mapping[str, str] | None] | None = None
        self._shards: list[tuple[BankedAdapter, Tensor]] = []
        self._places: dict[str, _LayerSlice] = {}
        size = 0
        for path, low in weights.items():
            (rank, inputs), outputs = low.a.shape, low.b.shape[0]
            self._places[path] = place = _LayerSlice(size, rank, inputs, outputs, low.scale)
            size = place.stop
        self.layout = _layouts.setdefault(tuple(self._places.items()), len(_layouts))
        master = torch.empty(size)
        for path, low in weights.items():
            a, b = self._places[path].factors(master)
            a.copy_(low.a)
            b.copy_(low.b.T)
        self.master: Float[Tensor, "P"] = to_device(master, device)
        self._cast(dtype)

    def _cast(self, dtype: torch.dtype) -> None:
        self._row = self.master if dtype == torch.float32 else self.master.to(dtype)
        self._factors = {path: place.factors(self._row) for path, place in self._places.items()}

    def copy(self) -> "BankedAdapter":
        """Another one of the same weights, to go its own way."""
        other = copy(self)
        other.master = self.master.clone()
        other._training, other._shards = None, []
        other._cast(self._row.dtype)
        return other

    @property
    def paths(self) -> tuple[str, ...]:
        """The layers this adapter adapts."""
        return tuple(self._places)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the factors take."""
        return self.master.nbytes + (self._row.nbytes if self._row is not self.master else 0)

    def first_adapted_token(self, prompt: int) -> int:
        """The first token that it acts on, after a prompt of so many tokens."""
        return 0 if self.invocation_tokens is None else max(0, prompt - self.invocation_tokens)

    def rank(self, path: str) -> int:
        """The rank at a layer, 0 where it adapts nothing."""
        place = self._places.get(path)
        return place.rank if place else 0

    def scale(self, path: str) -> float:
        """The factor of B A at a layer, 0 where it adapts nothing."""
        place = self._places.get(path)
        return place.scale if place else 0.0

    def factors(self, path: str) -> Factors | None:
        """What the layer at `path` multiplies with; None where nothing is adapted."""
        return self._factors.get(path)

    def round_to(self, dtype: torch.dtype) -> None:
        """Be as what was stored in that type; a gradient is let go."""
        self.master.grad = None
        self.master.copy_(self.master.to(dtype))
        self.publish()

    def publish(self) -> None:
        """Make the layers see the master."""
        if self._row is not self.master:
            self._row.copy_(self.master)

    def split_by_layer(self, row: Float[Tensor, "P"]) -> dict[str, Factors]:
        """A row laid out like the master, such as its gradient, as each layer's A and B^T."""
        return {path: place.factors(row) for path, place in self._places.items()}

    def weights(self) -> dict[str, LowRank]:
        """The master, layer by layer: views, where it lies in the processor's memory."""
        master, layers = self.master.cpu(), {}
        for path, place in self._places.items():
            a, b = place.factors(master)
            layers[path] = LowRank(a, b.T, place.scale)
        return layers

    @contextmanager
    def training(self, trainable: Mapping[str, str] | None = None) -> Iterator[Float[Tensor, "P"]]:
        """While open, backward passes add to the gradient row [P] that this yields.

        The factors become autograd leaves whose `.grad` are views of that one row, in the layers' dtype.
        `trained_factors` names, by path, the factors that are to move, "a" or "ab"; without it all are.
        """
        grads = torch.zeros_like(self._row)
        plain, self.trained_factors = (
            self._factors,
            "all" if trainable is None else frozenset(trainable.items()),
        )
        self._factors = self._gradient_leaves(grads, trainable)
        self._training = (grads, trainable)
        try:
            yield grads
        finally:
            self._factors, self.trained_factors = plain, None
            self._training, self._shards = None, []

    @property
    def trained_factor(self) -> Tensor | None:
        """A factor that requires a gradient, if one does."""
        return next((f for pair in self._factors.values() for f in pair if f.requires_grad), None)

    def shard(self, index: int) -> "BankedAdapter":
        """The same adapter for one of several threads that run a pass in parts.

        It adds to a gradient row of its own, until `gather_gradients`. Shard 0 is the adapter itself.
        """
        if index == 0 or self._training is None:
            return self
        _, trainable = self._training
        while len(self._shards) < index:
            grads, other = torch.zeros_like(self._row), copy(self)
            other._factors = self._gradient_leaves(grads, trainable)
            other._training, other._shards = None, []
            self._shards.append((other, grads))
        return self._shards[index - 1][0]

    def gather_gradients(self) -> None:
        """Add the gradients of the shards to the adapter's, in their order, and set them to zero."""
        if self._training is not None:
            for _, grads in self._shards:
                self._training[0].add_(grads)
                grads.zero_()

    def _gradient_leaves(
        self, grads: Float[Tensor, "P"], trainable: Mapping[str, str] | None
    ) -> dict[str, Factors]:
        """The factors, as autograd leaves whose `.grad` are views of a row, where they are trained."""
        return {
            path: (
                _gradient_leaf(a, into_a) if trainable is None or "a" in trainable.get(path, "") else a,
                _gradient_leaf(b, into_b) if trainable is None or "b" in trainable.get(path, "") else b,
            )
            for path, (a, b) in self._factors.items()
            for into_a, into_b in [self._places[path].factors(grads)]
        }


def _gradient_leaf(values: Tensor, grad: Tensor) -> Tensor:
    leaf = values.detach().requires_grad_()
    leaf.grad = grad
    return leaf


@runtime_checkable
class Router(Protocol):
    """Adds adapters to what the base's layers put out."""

    def adapt(
        self, path: str, x: Float[Tensor, "*B I"], y: Float[Tensor, "*B O"]
    ) -> Float[Tensor, "*B O"]:
        """The layer at `path` saw x and put out y; what it puts out with the batch's adapters."""
        ...


class Bank:
    """A model's adapted layers ask here. It holds the route of the forward pass in progress, no more."""

    def __init__(self) -> None:
        self._route: Router | None = None

    @contextmanager
    def use_route(self, route: Router) -> Iterator[None]:
        """Route the tokens of the one forward pass inside this context."""
        self._route = route
        try:
            yield
        finally:
            self._route = None

    def adapt(
        self, path: str, x: Float[Tensor, "*B I"], y: Float[Tensor, "*B O"]
    ) -> Float[Tensor, "*B O"]:
        """What the layer at `path` puts out for x in the pass in progress, where the base puts out y."""
        return y if self._route is None else self._route.adapt(path, x, y)


class BankedLinear(nn.Module):
    """A frozen linear layer whose output the bank adapts."""

    def __init__(self, layer: nn.Module, path: str, bank: Bank) -> None:
        super().__init__()
        self.layer = layer
        self.path = path
        self._bank = bank

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output with the batch's adapters."""
        return self._bank.adapt(self.path, x, self.layer(x))

    @property
    def weight(self) -> Tensor:
        """Some architectures ask a layer for its weight, to learn its dtype."""
        return self.layer.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        """The frozen layer's bias, for architectures that read it."""
        return self.layer.bias  # type: ignore[return-value]
