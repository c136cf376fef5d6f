"""Routes: which adapter each token of a batch belongs to, and what the adapters add to each layer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.delta import AdapterTokens, BatchedLoraUpdate, LayerUpdate, LoraUpdate

SHARED_PRODUCT_TOKENS = 64
"""On a CPU, spans of fewer tokens than this share one batched product. On an accelerator all spans do,
because calls are the larger cost there (calls were counted; nothing was timed)."""


@dataclass(frozen=True)
class Segment:
    """Tokens start..stop of a batch, counted row by row, belong to `adapter` (None: the base)."""

    adapter: BankedAdapter | None
    start: int
    stop: int

    @classmethod
    def split_sequence(
        cls, adapter: BankedAdapter | None, start: int, prompt: int, stop: int
    ) -> "tuple[Segment, ...]":
        """The segments of a sequence at start..stop whose first `prompt` tokens are its prompt.

        An adapter with invocation tokens leaves the beginning of the prompt to the base.
        """
        first = start + (adapter.first_adapted_token(prompt) if adapter is not None else 0)
        if first == start:
            return (cls(adapter, start, stop),)
        return cls(None, start, first), cls(adapter, first, stop)


@dataclass(frozen=True)
class _AdapterGroup:
    """Adapters that share one batched product; an adapter with `long` spans is alone in its group."""

    long: bool
    members: list[tuple[BankedAdapter, list[range]]] = field(default_factory=list)

    def layer_updates(self, path: str) -> list[LayerUpdate]:
        """The updates of the layer at `path`; none where these adapters do not adapt it."""
        (first, spans), scale = self.members[0], self.members[0][0].scale(path)
        factors = first.factors(path)
        if factors is None:
            return []
        if self.long or len(self.members) == len(spans) == 1:
            return [LoraUpdate(slice(s.start, s.stop), factors, scale) for s in spans]
        return [
            BatchedLoraUpdate(
                self._tokens, [f for a, _ in self.members if (f := a.factors(path))], scale
            )
        ]

    @cached_property
    def _tokens(self) -> AdapterTokens:
        return AdapterTokens.of([spans for _, spans in self.members], self.members[0][0].master.device)


@dataclass(frozen=True)
class Route:
    """Which adapter each token of a batch [B, T] belongs to.

    `only_adapter` is set when one adapter has the whole batch, or none. `inputs`, where given, collects
    by path what each adapted layer was given of its adapted tokens. Batches whose rows change from
    token to token are routed by `slots.Slots`.
    """

    slots: tuple[BankedAdapter | None, ...]
    segments: tuple[Segment, ...] = ()
    inputs: dict[str, Tensor] | None = None

    @classmethod
    def from_segments(
        cls, segments: Iterable[Segment], inputs: dict[str, Tensor] | None = None
    ) -> "Route":
        """The route of a batch with these segments; neighbouring segments of one adapter are joined."""
        joined: list[Segment] = []
        for s in segments:
            if joined and joined[-1].adapter is s.adapter and joined[-1].stop == s.start:
                s = Segment(s.adapter, joined.pop().start, s.stop)
            joined.append(s)
        slots = tuple(dict.fromkeys([None, *(s.adapter for s in joined)]))
        return cls(slots, segments=tuple(joined), inputs=inputs)

    @cached_property
    def only_adapter(self) -> BankedAdapter | None:
        """The adapter that has every token, if there is one."""
        return self.segments[0].adapter if len(self.segments) == 1 else None

    def adapts(self, path: str) -> bool:
        """Whether any adapter of the batch adapts this layer."""
        return any(a is not None and a.rank(path) for a in self.slots)

    def layer_updates(self, path: str) -> Sequence[LayerUpdate]:
        """What the layer at `path` adds, one update for each group of adapters or span of tokens."""
        return [update for group in self._adapter_groups for update in group.layer_updates(path)]

    @cached_property
    def _adapter_groups(self) -> list["_AdapterGroup"]:
        """The batch's adapters, grouped by what one batched product can take.

        They have one layout, move the same factors, and have about as many tokens each: padding to twice
        the tokens at most, which costs less than the calls it saves.
        """
        spans: dict[BankedAdapter, list[range]] = {}
        for s in self.segments:
            if s.adapter is not None:
                spans.setdefault(s.adapter, []).append(range(s.start, s.stop))
        groups: dict[object, _AdapterGroup] = {}
        for adapter, own_spans in spans.items():
            tokens = sum(map(len, own_spans))
            mean_is_long = tokens >= SHARED_PRODUCT_TOKENS * len(own_spans)
            long = mean_is_long and adapter.master.device.type == "cpu"
            key = adapter if long else (adapter.layout, adapter.trained_factors, tokens.bit_length())
            groups.setdefault(key, _AdapterGroup(long)).members.append((adapter, own_spans))
        return list(groups.values())

    def record_input(self, path: str, x: Float[Tensor, "*B I"]) -> None:
        """Add what an adapted layer is given to `inputs`, where those are collected."""
        if self.inputs is not None:
            rows = x.reshape(-1, x.shape[-1])
            adapted = [rows[s.start : s.stop] for s in self.segments if s.adapter is not None]
            self.inputs[path] = x if self.only_adapter is not None else torch.cat(adapted)

    def select_tokens(self, tokens: Int[Tensor, "K"]) -> "Route":
        """The route of a batch that has these tokens only; they are in ascending order, on the CPU."""
        bounds = torch.tensor([b for s in self.segments for b in (s.start, s.stop)])
        cuts = torch.searchsorted(tokens, bounds).tolist()
        spans = zip(self.segments, cuts[::2], cuts[1::2], strict=True)
        segments = tuple(Segment(s.adapter, a, b) for s, a, b in spans if a < b)
        return Route(self.slots, segments=segments, inputs=self.inputs)

    def adapt(
        self, path: str, x: Float[Tensor, "*B I"], y: Float[Tensor, "*B O"]
    ) -> Float[Tensor, "*B O"]:
        """The base layer's output y with each token's adapter added: y + scale * (x A^T) B^T."""
        if not self.adapts(path):
            return y
        self.record_input(path, x)
        flat_x, flat_y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        if self.only_adapter is not None:
            return _add_adapter(self.only_adapter, path, flat_x, flat_y).view(y.shape)
        parts = [
            _add_adapter(s.adapter, path, flat_x[s.start : s.stop], flat_y[s.start : s.stop])
            for s in self.segments
        ]
        return torch.cat(parts).view(y.shape)


def _add_adapter(
    adapter: BankedAdapter | None, path: str, x: Float[Tensor, "N I"], y: Float[Tensor, "N O"]
) -> Float[Tensor, "N O"]:
    factors = adapter.factors(path) if adapter is not None else None
    if adapter is None or factors is None:
        return y
    a, b = factors
    return torch.addmm(y, x @ a.T, b, alpha=adapter.scale(path))
