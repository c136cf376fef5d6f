"""The adapter bank: many LoRA adapters in one model, chosen token by token.

Each adapter in memory is one flat float32 row, its master: A [R, I] and B^T [R, O] of every adapted
layer, one after the other. A copy in the model's dtype is what the layers multiply with. So an optimizer
step, a cast or an upload is one operation, however many layers there are; adapters of different rank
and layers stand side by side without padding; and a row gives the same bits whatever the bank holds.

Which adapter a token belongs to travels with each call as a `Route`; nothing is ever "active". Within a
route, slot 0 is the base model, so that base and adapter rows share one batch.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ouroboros.lora.delta import Delta, Deltas, Factors, Ragged, Update
from ouroboros.lora.weights import LowRank

SHORT = 64
"""Stretches of fewer tokens than this share their products."""


@dataclass(frozen=True)
class _Place:
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


class BankedAdapter:
    """One adapter in memory. `master [P]` is the truth in float32; `publish` shows it to the layers.

    Adapters of one `layout` have the same layers, ranks and scales. What is `moving` in a training tells
    those that move other factors apart.

    `opening`, where given, is how many of a prompt's last tokens it acts on: the base reads those before
    them by itself (activated LoRA, arXiv 2504.12397). The answer always has the adapter.
    """

    def __init__(
        self,
        weights: Mapping[str, LowRank],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        opening: int | None = None,
    ) -> None:
        self.opening = opening
        self.moving: object = None
        self._places: dict[str, _Place] = {}
        size = 0
        for path, low in weights.items():
            (rank, inputs), outputs = low.a.shape, low.b.shape[0]
            self._places[path] = place = _Place(size, rank, inputs, outputs, low.scale)
            size = place.stop
        self.layout = _layouts.setdefault(tuple(self._places.items()), len(_layouts))
        self.master: Float[Tensor, "P"] = torch.empty(size, device=device)
        for path, low in weights.items():
            a, b = self._places[path].factors(self.master)
            a.copy_(low.a)
            b.copy_(low.b.T)
        self._show(dtype)

    def _show(self, dtype: torch.dtype) -> None:
        self._row = self.master if dtype == torch.float32 else self.master.to(dtype)
        self._factors = {path: place.factors(self._row) for path, place in self._places.items()}

    def copy(self, rounded: torch.dtype = torch.float32) -> "BankedAdapter":
        """Another one of the same weights, rounded to a type, to go its own way."""
        other = copy(self)
        other.master = self.master.to(rounded, copy=True).float()
        other._show(self._row.dtype)
        return other

    @property
    def paths(self) -> tuple[str, ...]:
        """The layers this adapter adapts."""
        return tuple(self._places)

    @property
    def nbytes(self) -> int:
        return self.master.nbytes + (self._row.nbytes if self._row is not self.master else 0)

    def acts_from(self, prompt: int) -> int:
        """The first token that it acts on, after a prompt of so many tokens."""
        return 0 if self.opening is None else max(0, prompt - self.opening)

    def rank(self, path: str) -> int:
        """The rank at a layer, 0 where it adapts nothing."""
        place = self._places.get(path)
        return place.rank if place else 0

    def scale(self, path: str) -> float:
        place = self._places.get(path)
        return place.scale if place else 0.0

    def factors(self, path: str) -> Factors | None:
        """What the layer at `path` multiplies with; None where nothing is adapted."""
        return self._factors.get(path)

    def publish(self) -> None:
        """Make the layers see the master."""
        if self._row is not self.master:
            self._row.copy_(self.master)

    def views(self, row: Float[Tensor, "P"]) -> dict[str, Factors]:
        """A row laid out like the master, such as its gradient, as each layer's A and B^T."""
        return {path: place.factors(row) for path, place in self._places.items()}

    def weights(self) -> dict[str, LowRank]:
        """The master, layer by layer: views, where it lies in the processor's memory."""
        master, found = self.master.cpu(), {}
        for path, place in self._places.items():
            a, b = place.factors(master)
            found[path] = LowRank(a, b.T, place.scale)
        return found

    @contextmanager
    def training(self, moving: Mapping[str, str] | None = None) -> Iterator[Float[Tensor, "P"]]:
        """While open, backward passes add to the gradient row [P] that this yields.

        The factors become autograd leaves whose `.grad` are views of that one row, in the layers' dtype.
        `moving` names, by path, the factors that are to move, "a" or "ab"; without it all are.
        """
        grads = torch.zeros_like(self._row)
        plain, self.moving = self._factors, "all" if moving is None else frozenset(moving.items())
        self._factors = {
            path: (
                _leaf(a, into_a) if moving is None or "a" in moving.get(path, "") else a,
                _leaf(b, into_b) if moving is None or "b" in moving.get(path, "") else b,
            )
            for path, (a, b) in plain.items()
            for into_a, into_b in [self._places[path].factors(grads)]
        }
        try:
            yield grads
        finally:
            self._factors, self.moving = plain, None


_layouts: dict[tuple[tuple[str, _Place], ...], int] = {}


def _leaf(values: Tensor, grad: Tensor) -> Tensor:
    leaf = values.detach().requires_grad_()
    leaf.grad = grad
    return leaf


@dataclass(frozen=True)
class Segment:
    """Tokens start..stop of a batch, counted row after row, belong to `adapter` (None: the base)."""

    adapter: BankedAdapter | None
    start: int
    stop: int

    @classmethod
    def of_sequence(
        cls, adapter: BankedAdapter | None, start: int, prompt: int, stop: int
    ) -> "tuple[Segment, ...]":
        """A sequence at start..stop that begins with a prompt of so many tokens."""
        acts = start + (adapter.acts_from(prompt) if adapter is not None else 0)
        if acts == start:
            return (cls(adapter, start, stop),)
        return cls(None, start, acts), cls(adapter, acts, stop)


@dataclass(frozen=True)
class _Alike:
    """Adapters that are gone through together; one that has `long` stretches stays by itself."""

    long: bool
    members: list[tuple[BankedAdapter, list[range]]] = field(default_factory=list)

    def updates(self, path: str) -> list[Update]:
        """What they add to the layer at `path`."""
        (first, spans), scale = self.members[0], self.members[0][0].scale(path)
        factors = first.factors(path)
        if factors is None:
            return []
        if self.long or len(self.members) == len(spans) == 1:
            return [Delta(slice(s.start, s.stop), factors, scale) for s in spans]
        return [Deltas(self._rows, [f for a, _ in self.members if (f := a.factors(path))], scale)]

    @cached_property
    def _rows(self) -> Ragged:
        return Ragged.of([spans for _, spans in self.members])


@dataclass(frozen=True)
class Route:
    """Which adapter each token of a batch [B, T] belongs to.

    `sole` is set when one adapter has the whole batch, or none. `inputs`, where given, is filled with
    what each layer that the batch adapts saw of its adapted tokens, by path. Batches whose rows change
    from token to token are routed by `slots.Slots`.
    """

    slots: tuple[BankedAdapter | None, ...]
    segments: tuple[Segment, ...] = ()
    inputs: dict[str, Tensor] | None = None

    @classmethod
    def of_segments(
        cls, segments: Iterable[Segment], inputs: dict[str, Tensor] | None = None
    ) -> "Route":
        """Neighbouring segments of one adapter are joined."""
        joined: list[Segment] = []
        for s in segments:
            if joined and joined[-1].adapter is s.adapter and joined[-1].stop == s.start:
                s = Segment(s.adapter, joined.pop().start, s.stop)
            joined.append(s)
        slots = tuple(dict.fromkeys([None, *(s.adapter for s in joined)]))
        return cls(slots, segments=tuple(joined), inputs=inputs)

    @cached_property
    def sole(self) -> BankedAdapter | None:
        """The adapter that has every token, if there is one."""
        return self.segments[0].adapter if len(self.segments) == 1 else None

    def touches(self, path: str) -> bool:
        """Whether any adapter of the batch adapts this layer."""
        return any(a is not None and a.rank(path) for a in self.slots)

    def updates(self, path: str) -> Sequence[Update]:
        """What the layer at `path` is to add: by each adapter, or by those that are alike together."""
        if path not in self._updates:
            self._updates[path] = [u for alike in self._alike for u in alike.updates(path)]
        return self._updates[path]

    @cached_property
    def _updates(self) -> dict[str, Sequence[Update]]:
        return {}

    @cached_property
    def _alike(self) -> list["_Alike"]:
        """The batch's adapters: those of one layout that have about as many tokens together."""
        spans: dict[BankedAdapter, list[range]] = {}
        for s in self.segments:
            if s.adapter is not None:
                spans.setdefault(s.adapter, []).append(range(s.start, s.stop))
        found: dict[object, _Alike] = {}
        for adapter, own in spans.items():
            tokens = sum(map(len, own))
            long = tokens >= SHORT * len(own)
            kind = adapter if long else (adapter.layout, adapter.moving, tokens.bit_length())
            found.setdefault(kind, _Alike(long)).members.append((adapter, own))
        return list(found.values())

    def see(self, path: str, x: Float[Tensor, "*B I"]) -> None:
        """Put down what an adapted layer sees, if that is wanted."""
        if self.inputs is not None:
            rows = x.reshape(-1, x.shape[-1])
            own = [rows[s.start : s.stop] for s in self.segments if s.adapter is not None]
            self.inputs[path] = x if self.sole is not None else torch.cat(own)

    def at(self, tokens: Int[Tensor, "K"]) -> "Route":
        """The route of some of the tokens, which are in order."""
        bounds = torch.tensor(
            [b for s in self.segments for b in (s.start, s.stop)], device=tokens.device
        )
        cuts = torch.searchsorted(tokens, bounds).tolist()
        spans = zip(self.segments, cuts[::2], cuts[1::2], strict=True)
        kept = tuple(Segment(s.adapter, a, b) for s, a, b in spans if a < b)
        return Route(self.slots, segments=kept, inputs=self.inputs)

    def adapt(
        self, path: str, x: Float[Tensor, "*B I"], y: Float[Tensor, "*B O"]
    ) -> Float[Tensor, "*B O"]:
        """Add to the base layer's output each token's adapter: y + scale * (x A^T) B^T."""
        if not self.touches(path):
            return y
        self.see(path, x)
        flat_x, flat_y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        if self.sole is not None:
            return _add(self.sole, path, flat_x, flat_y).view(y.shape)
        parts = [
            _add(s.adapter, path, flat_x[s.start : s.stop], flat_y[s.start : s.stop])
            for s in self.segments
        ]
        return torch.cat(parts).view(y.shape)


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
    def routed(self, route: Router) -> Iterator[None]:
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


def _add(
    adapter: BankedAdapter | None, path: str, x: Float[Tensor, "N I"], y: Float[Tensor, "N O"]
) -> Float[Tensor, "N O"]:
    factors = adapter.factors(path) if adapter is not None else None
    if adapter is None or factors is None:
        return y
    a, b = factors
    return torch.addmm(y, x @ a.T, b, alpha=adapter.scale(path))


class BankedLinear(nn.Module):
    """A frozen linear layer whose output the bank adapts."""

    def __init__(self, layer: nn.Module, path: str, bank: Bank) -> None:
        super().__init__()
        self.layer = layer
        self.path = path
        self._bank = bank

    def forward(self, x: Tensor) -> Tensor:
        return self._bank.adapt(self.path, x, self.layer(x))

    @property
    def weight(self) -> Tensor:
        """Some architectures ask a layer for its weight, to learn its dtype."""
        return self.layer.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        return self.layer.bias  # type: ignore[return-value]
