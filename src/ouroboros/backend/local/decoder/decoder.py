"""A Llama-like decoder, run by our own forward and backward pass over the weights of the loaded model.

It computes what `transformers` computes, with a third of the operations: each layer is two blocks whose
derivatives are written out. No gradient is formed for a frozen weight, nothing is kept below the first
adapted layer, and after the last attention only the positions whose logits are wanted go on.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from ouroboros.backend.local.cache.kv_cache import KVCache, KVCacheLayer
from ouroboros.backend.local.cache.prefix_cache import PrefixKV
from ouroboros.backend.local.decoder.functional import (
    attention,
    attention_backward,
    rotate,
    swiglu,
    swiglu_backward,
)
from ouroboros.backend.local.decoder.layers import Linear, Norm
from ouroboros.backend.local.decoder.length_groups import LengthGroup, group_by_length, regroup
from ouroboros.backend.local.decoder.prefix import PrefixBatch
from ouroboros.lora.bank import Router
from ouroboros.lora.delta import find_trained_factor
from ouroboros.lora.route import Route, Segment
from ouroboros.lora.transfer import to_device

KeysValuesPerLayer = list[tuple[Tensor, Tensor]]
"""Keys and values [T, H, D] of a run, layer after layer."""

ARCHITECTURES = frozenset(["llama", "mistral", "qwen2", "qwen3"])
"""Model types that are this decoder: RMS norms, rotary positions by halves, a gated SiLU."""


@dataclass(frozen=True)
class ForwardContext:
    """What all layers of a run share: positions, neighbours, and the adapter of each token.

    `before` holds the cached prefixes of each group's sequences. Each layer appends its keys and values
    to `states`. With `again` a layer saves only its inputs and is recomputed in the backward pass
    (arXiv 1604.06174).
    """

    cos: Float[Tensor, "T 1 C"]
    sin: Float[Tensor, "T 1 C"]
    groups: tuple[LengthGroup, ...]
    route: Route
    before: tuple[PrefixBatch | None, ...]
    states: KeysValuesPerLayer | None
    again: bool


@dataclass(frozen=True)
class CachedHidden:
    """What a layer is given for each token of a run: no adapter of it acts below that layer."""

    layer: int
    h: Float[Tensor, "T D"]


class Decoder:
    """The layers of a model between its embedding and its head."""

    def __init__(self, model: PreTrainedModel) -> None:
        body: Any = model.get_decoder()
        name = next(path for path, module in model.named_modules() if module is body)
        self._path = f"{name}.layers."
        self._embed, self._rotary, self._norm = body.embed_tokens, body.rotary_emb, Norm(body.norm)
        self._layers = [
            DecoderLayer(i, f"{self._path}{i}", layer) for i, layer in enumerate(body.layers)
        ]
        self.head: nn.Module = model.get_output_embeddings()  # type: ignore[assignment]
        self._window = getattr(model.config, "sliding_window", None)

    def fits_sliding_window(self, lengths: Sequence[int]) -> bool:
        """Whether no sequence is longer than a sliding window, which these passes do not know."""
        return self._window is None or max(lengths) <= self._window

    def first_adapted_layer(self, paths: Iterable[str]) -> int:
        """The lowest layer that any of these linear layers are in."""
        return min(int(p.removeprefix(self._path).partition(".")[0]) for p in paths)

    def hidden_at_layer(
        self,
        layer: int,
        ids: Int[Tensor, "T"],
        positions: Int[Tensor, "T"],
        lengths: Sequence[int],
        prefixes: Sequence[PrefixKV | None] = (),
    ) -> Float[Tensor, "T D"]:
        """What a layer is given by the base alone, for the sequences that `final_hidden` would run."""
        h = self._embed(ids)
        route = Route.from_segments([Segment(None, 0, len(ids))])
        frame = self._frame(h, positions, lengths, route, prefixes)
        for each in self._layers[:layer]:
            h = _think(h, _mix(h, None, each, frame), None, each, route, False)
        return h

    def final_hidden(
        self,
        ids: Int[Tensor, "T"],
        positions: Int[Tensor, "T"],
        lengths: Sequence[int],
        route: Route,
        output_positions: Int[Tensor, "K"],
        recompute: bool = False,
        prefixes: Sequence[PrefixKV | None] = (),
        keys_values: KeysValuesPerLayer | None = None,
        cached_hidden: CachedHidden | None = None,
    ) -> Float[Tensor, "K D"]:
        """The normed hidden states at `output_positions`, for sequences of these lengths end to end.

        The positions stay in CPU memory, so that routing them does not wait for the device. Sequence i
        continues after prefixes[i], where that is given. Each layer appends its keys and values to
        `keys_values`, where that is given. With `recompute` the backward pass takes less memory and more
        time, for the same bits. The layers below `cached_hidden` are not run.
        """
        h = self._embed(ids) if cached_hidden is None else cached_hidden.h
        frame = self._frame(h, positions, lengths, route, prefixes, keys_values, recompute)
        for layer in self._layers[cached_hidden.layer if cached_hidden else 0 :]:
            mixed = _mix(h, layer.trained_attention(route), layer, frame)
            if layer is self._layers[-1]:
                route, at = route.select_tokens(output_positions), to_device(output_positions, h.device)
                h, mixed = h.index_select(0, at), mixed.index_select(0, at)
            h = _think(h, mixed, layer.trained_mlp(route), layer, route, recompute)
        return self._norm(h)[0]

    def _frame(
        self,
        h: Float[Tensor, "T D"],
        positions: Int[Tensor, "T"],
        lengths: Sequence[int],
        route: Route,
        begun: Sequence[PrefixKV | None],
        states: KeysValuesPerLayer | None = None,
        again: bool = False,
    ) -> ForwardContext:
        groups = group_by_length(lengths, h.device)
        share = self._layers[0].share
        before = tuple(PrefixBatch.of(group, lengths, begun, share) for group in groups)
        return ForwardContext(*self._turns(h, positions), groups, route, before, states, again)

    def decode_step(self, ids: Int[Tensor, "B"], cache: KVCache, router: Router) -> Float[Tensor, "B D"]:
        """What the head sees after one further token per row; `cache` has those before them."""
        mask, positions = cache.begin_step(whole=True)
        h = self._embed(ids)
        cos, sin = self._turns(h, positions[:, 0])
        bias = h.new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))
        bias = bias.repeat_interleave(self._layers[0].key_heads, 0)[:, None]
        for layer, kept in zip(self._layers, cache.by_layer, strict=True):
            h = layer.decode_step(h, cos, sin, bias, kept, router)
        cache.finish_step()
        return self._norm(h)[0]

    def _turns(self, h: Tensor, positions: Int[Tensor, "T"]) -> tuple[Tensor, Tensor]:
        """Cosine and sine of each position's angles [T, 1, C]."""
        cos, sin = self._rotary(h[None], positions[None])
        half = cos.shape[-1] // 2
        return cos[0, :, None, :half], sin[0, :, None, :half]


class DecoderLayer:
    """One layer: `attention_forward` looks at other tokens, `mlp_forward` at each by itself."""

    def __init__(self, number: int, path: str, layer: Any) -> None:
        self._number = number
        attention, mlp = layer.self_attn, layer.mlp
        self._depth = attention.head_dim
        self._scale = attention.scaling
        self._before, self._between = Norm(layer.input_layernorm), Norm(layer.post_attention_layernorm)
        self._q, self._k, self._v, self._o = (
            Linear(f"{path}.self_attn.{n}", getattr(attention, n))
            for n in ("q_proj", "k_proj", "v_proj", "o_proj")
        )
        self._gate, self._up, self._down = (
            Linear(f"{path}.mlp.{n}", getattr(mlp, n)) for n in ("gate_proj", "up_proj", "down_proj")
        )
        self._q_norm = Norm(attention.q_norm) if hasattr(attention, "q_norm") else None
        self._k_norm = Norm(attention.k_norm) if hasattr(attention, "k_norm") else None
        self.key_heads = self._k.outputs // self._depth
        self.share = self._q.outputs // self._k.outputs

    def attention_forward(
        self, h: Float[Tensor, "T D"], frame: ForwardContext
    ) -> tuple[Float[Tensor, "T A"], Any]:
        """What attention brings to each token, before its output projection."""
        x, inverse = self._before(h)
        (q, for_q), (k, for_k), (v, for_v) = (p(x, frame.route) for p in (self._q, self._k, self._v))
        q, turned_q = self._turn(q, self._q_norm, frame)
        k, turned_k = self._turn(k, self._k_norm, frame)
        v = v.view_as(k)
        if frame.states is not None:
            frame.states.append((k, v))
        parts, kept = [], []
        for group, before in zip(frame.groups, frame.before, strict=True):
            own_q, own_k, own_v = (group.pad(t, self.key_heads) for t in (q, k, v))
            if before is not None:
                own_k, own_v = before.join(self._number, own_k, own_v)
            out, weights = attention(own_q, own_k, own_v, self._scale, before and before.bias)
            parts.append(group.unpad(out, self.key_heads))
            kept.append((own_q, own_k, own_v, weights))
        out = regroup(parts, frame.groups, len(h))
        return out, (h, inverse, for_q, for_k, for_v, turned_q, turned_k, kept)

    def attention_backward(
        self, d: Tensor, kept: Any, frame: ForwardContext, wanted: bool
    ) -> Tensor | None:
        """The derivative with respect to h, if `wanted`; the adapters' factors get theirs."""
        h, inverse, for_q, for_k, for_v, turned_q, turned_k, groups = kept
        d = d.view(len(d), -1, self._depth)
        parts = []
        for group, before, (own_q, own_k, own_v, weights) in zip(
            frame.groups, frame.before, groups, strict=True
        ):
            placed = group.pad_zero(d, self.key_heads)
            skipped = before and before.tokens
            found = attention_backward(placed, own_q, own_k, own_v, weights, self._scale, skipped)
            parts.append([group.unpad(t, self.key_heads) for t in found])
        dq, dk, dv = (regroup(p, frame.groups, len(h)) for p in zip(*parts, strict=True))
        dq = self._turn_back(dq, self._q_norm, turned_q, frame)
        dk = self._turn_back(dk, self._k_norm, turned_k, frame)
        if not wanted:
            self._q.teach(dq, for_q)
            self._k.teach(dk, for_k)
            self._v.teach(dv, for_v)
            return None
        dx = self._q.back(dq, for_q)
        self._k.back(dk, for_k, onto=dx)
        self._v.back(dv, for_v, onto=dx)
        return self._before.back(dx, h, inverse)

    def mlp_forward(
        self, h: Float[Tensor, "T D"], mixed: Float[Tensor, "T A"], route: Route
    ) -> tuple[Float[Tensor, "T D"], Any]:
        """The rest of the layer."""
        h, for_o = self._o(mixed, route, onto=h)
        x, inverse = self._between(h)
        (gate, for_gate), (up, for_up) = self._gate(x, route), self._up(x, route)
        inner, opened = swiglu(gate, up)
        out, for_down = self._down(inner, route, onto=h)
        return out, (h, inverse, gate, up, opened, for_o, for_gate, for_up, for_down)

    def mlp_backward(self, d: Tensor, kept: Any) -> tuple[Tensor, Tensor]:
        """The derivatives with respect to h and mixed."""
        h, inverse, gate, up, opened, for_o, for_gate, for_up, for_down = kept
        dinner = self._down.back(d, for_down)
        dgate, dup = swiglu_backward(dinner, gate, up, opened)
        dx = self._up.back(dup, for_up, onto=self._gate.back(dgate, for_gate))
        dh = self._between.back(dx, h, inverse).add_(d)
        return dh, self._o.back(dh, for_o)

    def decode_step(
        self,
        h: Float[Tensor, "B D"],
        cos: Float[Tensor, "B 1 C"],
        sin: Float[Tensor, "B 1 C"],
        bias: Float[Tensor, "M 1 K"],
        kept: KVCacheLayer,
        router: Router,
    ) -> Float[Tensor, "B D"]:
        """The whole layer for one further token per row, with no way back."""
        x, _ = self._before(h)
        q, k, v = (p.read(x, router).view(len(h), -1, self._depth) for p in (self._q, self._k, self._v))
        q = rotate(self._q_norm(q)[0] if self._q_norm else q, cos, sin)
        k = rotate(self._k_norm(k)[0] if self._k_norm else k, cos, sin)
        keys, values = (t.flatten(0, 1) for t in kept.append_token(k, v))
        mixed, _ = attention(q.view(len(keys), -1, self._depth), keys, values, self._scale, bias)
        h = self._o.read(mixed.view(len(h), -1), router, onto=h)
        x, _ = self._between(h)
        inner, _ = swiglu(self._gate.read(x, router), self._up.read(x, router))
        return self._down.read(inner, router, onto=h)

    def trained_attention(self, route: Route) -> Tensor | None:
        return self._trained(route, self._q, self._k, self._v)

    def trained_mlp(self, route: Route) -> Tensor | None:
        return self._trained(route, self._o, self._gate, self._up, self._down)

    def _trained(self, route: Route, *linears: "Linear") -> Tensor | None:
        """A factor that wants a gradient, if one does: autograd then asks for the way back."""
        return next(
            (
                t
                for linear in linears
                if (t := find_trained_factor(route.layer_updates(linear.path))) is not None
            ),
            None,
        )

    def _turn(self, x: Tensor, normed: "Norm | None", frame: ForwardContext) -> tuple[Tensor, Any]:
        heads = x.view(len(x), -1, self._depth)
        found, inverse = normed(heads) if normed else (heads, None)
        return rotate(found, frame.cos, frame.sin), (heads, inverse)

    def _turn_back(self, d: Tensor, normed: "Norm | None", kept: Any, frame: ForwardContext) -> Tensor:
        heads, inverse = kept
        d = rotate(d.view_as(heads), frame.cos, -frame.sin)
        return (normed.back(d, heads, inverse) if normed else d).flatten(1)


class _AttentionFunction(torch.autograd.Function):
    """`DecoderLayer.attention_forward` with its derivative.

    `trained` makes autograd ask for the derivative; the gradient itself is written into the factors.
    """

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, trained: Tensor | None, layer: "DecoderLayer", frame: ForwardContext
    ) -> Any:
        out, kept = layer.attention_forward(h, frame)
        ctx.inputs, ctx.kept = (h, frame), None if frame.again else kept
        ctx.layer = layer
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        kept = ctx.kept or ctx.layer.attention_forward(*ctx.inputs)[1]
        dh = ctx.layer.attention_backward(*grad_outputs, kept, ctx.inputs[1], ctx.needs_input_grad[0])
        return dh, None, None, None


class _MlpFunction(torch.autograd.Function):
    """`DecoderLayer.mlp_forward` with its derivative, likewise."""

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        mixed: Tensor,
        trained: Tensor | None,
        layer: DecoderLayer,
        route: Route,
        again: bool,
    ) -> Any:
        out, kept = layer.mlp_forward(h, mixed, route)
        ctx.inputs, ctx.kept = (h, mixed, route), None if again else kept
        ctx.layer = layer
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        kept = ctx.kept or ctx.layer.mlp_forward(*ctx.inputs)[1]
        return *ctx.layer.mlp_backward(*grad_outputs, kept), None, None, None, None


_mix: Callable[..., Any] = _AttentionFunction.apply
_think: Callable[..., Any] = _MlpFunction.apply
