"""A Llama-like decoder: our own forward and backward pass over the weights of the loaded model.

It computes what `transformers` computes, with a third of the operations: each layer is two blocks whose
derivatives are written out. No gradient is formed for a frozen weight, nothing is saved below the first
adapted layer, and after the last attention only the positions whose logits are wanted go on.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from ouroboros.backend.local.cache.kv_cache import KVCache, KVCacheLayer
from ouroboros.backend.local.decoder.functional import (
    attention,
    attention_backward,
    rotate,
    swiglu,
    swiglu_backward,
)
from ouroboros.backend.local.decoder.layers import AdaptedLinear, LinearSaved, Norm
from ouroboros.backend.local.decoder.length_groups import (
    LengthGroup,
    group_by_length,
    join_groups,
    sum_key_groups,
)
from ouroboros.backend.local.decoder.prefix import (
    PrefixBatch,
    SequenceLayout,
    build_attention_bias,
)
from ouroboros.lora.bank import Router
from ouroboros.lora.delta import find_trained_factor
from ouroboros.lora.route import Route, Segment
from ouroboros.lora.transfer import to_device

KeysValuesPerLayer = list[tuple[Tensor, Tensor]]
"""Keys and values [T, H, D] of a run, layer by layer."""

ARCHITECTURES = frozenset(["llama", "mistral", "qwen2", "qwen3"])
"""Model types that are this decoder: RMS norms, rotary positions by halves, a gated SiLU."""


@dataclass(frozen=True)
class ForwardContext:
    """What all layers of a run share: rotary angles, length groups, and the adapter of each token.

    prefixes     the cached prefixes of each group's sequences.
    biases       what each group adds to its attention scores; None for a causal mask.
    keys_values  each layer appends its keys and values here, where it is given.
    recompute    a layer saves only its inputs, and runs again in the backward pass (arXiv 1604.06174).
    """

    cos: Float[Tensor, "T 1 C"]
    sin: Float[Tensor, "T 1 C"]
    groups: tuple[LengthGroup, ...]
    route: Route
    prefixes: tuple[PrefixBatch | None, ...]
    biases: tuple[Tensor | None, ...]
    keys_values: KeysValuesPerLayer | None
    recompute: bool


@dataclass(frozen=True)
class CachedHidden:
    """The input of a layer for each token of a run; no adapter of the run acts below that layer."""

    layer: int
    h: Float[Tensor, "T D"]


class HeadsSaved(NamedTuple):
    """What the norm and rotation of query or key heads save: heads, and 1 / rms with a norm."""

    heads: Float[Tensor, "T H D"]
    inverse_rms: Tensor | None


class GroupSaved(NamedTuple):
    """The padded tensors of a length group, and what `attention` saves."""

    q: Float[Tensor, "M Q D"]
    k: Float[Tensor, "M K D"]
    v: Float[Tensor, "M K D"]
    weights: tuple[Tensor, ...]


class AttentionSaved(NamedTuple):
    """What `DecoderLayer.attention_forward` saves for `attention_backward`."""

    h: Float[Tensor, "T D"]
    inverse_rms: Tensor
    q_proj: LinearSaved
    k_proj: LinearSaved
    v_proj: LinearSaved
    q_heads: HeadsSaved
    k_heads: HeadsSaved
    groups: list[GroupSaved]


class MlpSaved(NamedTuple):
    """What `DecoderLayer.mlp_forward` saves for `mlp_backward`."""

    h: Float[Tensor, "T D"]
    inverse_rms: Tensor
    gate: Float[Tensor, "T F"]
    up: Float[Tensor, "T F"]
    activated: Float[Tensor, "T F"]
    o_proj: LinearSaved
    gate_proj: LinearSaved
    up_proj: LinearSaved
    down_proj: LinearSaved


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

    @property
    def is_stateless(self) -> bool:
        """Whether passes may run at the same time; some rotary embeddings adjust to each pass."""
        return getattr(self._rotary, "rope_type", "default") not in ("dynamic", "longrope")

    def fits_sliding_window(self, lengths: Sequence[int]) -> bool:
        """Whether no sequence is longer than the model's sliding window, which this decoder lacks."""
        return self._window is None or max(lengths) <= self._window

    def first_adapted_layer(self, paths: Iterable[str]) -> int:
        """The lowest layer that has one of these linear layers."""
        return min(int(p.removeprefix(self._path).partition(".")[0]) for p in paths)

    def hidden_at_layer(
        self,
        layer: int,
        ids: Int[Tensor, "T"],
        positions: Int[Tensor, "T"],
        sequences: SequenceLayout,
    ) -> Float[Tensor, "T D"]:
        """The input of a layer by the base alone, for the sequences that `final_hidden` would run."""
        h = self._embed(ids)
        route = Route.from_segments([Segment(None, 0, len(ids))])
        context = self._build_context(h, positions, sequences, route)
        for each in self._layers[:layer]:
            h = _run_mlp(h, _run_attention(h, None, each, context), None, each, route, False)
        return h

    def final_hidden(
        self,
        ids: Int[Tensor, "T"],
        positions: Int[Tensor, "T"],
        sequences: SequenceLayout,
        route: Route,
        output_positions: Int[Tensor, "K"],
        recompute: bool = False,
        keys_values: KeysValuesPerLayer | None = None,
        cached_hidden: CachedHidden | None = None,
    ) -> Float[Tensor, "K D"]:
        """The normed hidden states at `output_positions` of sequences that lie end to end.

        The positions stay in CPU memory, so that routing them does not wait for the device. Each layer
        appends its keys and values to `keys_values`, where that is given. With `recompute` the backward
        pass takes less memory and more time, for the same bits. The layers below `cached_hidden` are not
        run.
        """
        # 1. Embed the tokens, or start from the cached input of the first adapted layer.
        h = self._embed(ids) if cached_hidden is None else cached_hidden.h
        first_layer = cached_hidden.layer if cached_hidden else 0
        context = self._build_context(h, positions, sequences, route, keys_values, recompute)
        for layer in self._layers[first_layer:]:
            # 2. Attention needs all tokens. Autograd enters a layer only if one of its factors, or h
            #    from an adapted layer below, requires a gradient.
            mixed = _run_attention(h, layer.trained_attention_factor(route), layer, context)
            # 3. After the last attention tokens no longer meet: drop those without a wanted output.
            if layer is self._layers[-1]:
                route = route.select_tokens(output_positions)
                index = to_device(output_positions, h.device)
                h, mixed = h.index_select(0, index), mixed.index_select(0, index)
            h = _run_mlp(h, mixed, layer.trained_mlp_factor(route), layer, route, recompute)
        return self._norm.forward(h)[0]

    def decode_step(self, ids: Int[Tensor, "B"], cache: KVCache, router: Router) -> Float[Tensor, "B D"]:
        """The normed hidden states of one further token per row, which is appended to `cache`."""
        mask, positions = cache.begin_step(all_columns=True)
        h = self._embed(ids)
        cos, sin = self._rotary_angles(h, positions[:, 0])
        bias = h.new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))
        bias = bias.repeat_interleave(self._layers[0].kv_heads, 0)[:, None]
        for layer, cache_layer in zip(self._layers, cache.by_layer, strict=True):
            h = layer.decode_step(h, cos, sin, bias, cache_layer, router)
        cache.finish_step()
        return self._norm.forward(h)[0]

    def _build_context(
        self,
        h: Float[Tensor, "T D"],
        positions: Int[Tensor, "T"],
        sequences: SequenceLayout,
        route: Route,
        keys_values: KeysValuesPerLayer | None = None,
        recompute: bool = False,
    ) -> ForwardContext:
        groups = group_by_length(sequences.lengths, h.device, sequences.parents)
        kv_heads, queries_per_key = self._layers[0].kv_heads, self._layers[0].queries_per_key
        batches = tuple(PrefixBatch.of(group, sequences.prefixes) for group in groups)
        biases = tuple(
            build_attention_bias(group, batch, kv_heads, queries_per_key, h.dtype, h.device)
            for group, batch in zip(groups, batches, strict=True)
        )
        cos, sin = self._rotary_angles(h, positions)
        return ForwardContext(cos, sin, groups, route, batches, biases, keys_values, recompute)

    def _rotary_angles(self, h: Tensor, positions: Int[Tensor, "T"]) -> tuple[Tensor, Tensor]:
        """Cosine and sine of each position's angles [T, 1, C], C half of a head's dimension."""
        cos, sin = self._rotary(h[None], positions[None])
        half = cos.shape[-1] // 2
        return cos[0, :, None, :half], sin[0, :, None, :half]


class DecoderLayer:
    """One layer: attention mixes a sequence's tokens, the MLP takes each token by itself."""

    def __init__(self, index: int, path: str, layer: Any) -> None:
        self._index = index
        attention, mlp = layer.self_attn, layer.mlp
        self._head_dim = attention.head_dim
        self._scale = attention.scaling
        self._input_norm = Norm(layer.input_layernorm)
        self._post_attention_norm = Norm(layer.post_attention_layernorm)
        self._q_proj, self._k_proj, self._v_proj, self._o_proj = (
            AdaptedLinear(f"{path}.self_attn.{n}", getattr(attention, n))
            for n in ("q_proj", "k_proj", "v_proj", "o_proj")
        )
        self._gate_proj, self._up_proj, self._down_proj = (
            AdaptedLinear(f"{path}.mlp.{n}", getattr(mlp, n))
            for n in ("gate_proj", "up_proj", "down_proj")
        )
        self._q_norm = Norm(attention.q_norm) if hasattr(attention, "q_norm") else None
        self._k_norm = Norm(attention.k_norm) if hasattr(attention, "k_norm") else None
        self.kv_heads = self._k_proj.outputs // self._head_dim
        self.queries_per_key = self._q_proj.outputs // self._k_proj.outputs

    def attention_forward(
        self, h: Float[Tensor, "T D"], context: ForwardContext
    ) -> tuple[Float[Tensor, "T A"], AttentionSaved]:
        """The attention's output for each token, before its output projection."""
        # 1. Norm, project, rotate: one row per token, whichever sequence it is in.
        x, inverse_rms = self._input_norm.forward(h)
        q, q_saved = self._q_proj.forward(x, context.route)
        k, k_saved = self._k_proj.forward(x, context.route)
        v, v_saved = self._v_proj.forward(x, context.route)
        q, q_heads = self._rotate_heads(q, self._q_norm, context)
        k, k_heads = self._rotate_heads(k, self._k_norm, context)
        v = v.view_as(k)
        if context.keys_values is not None:
            context.keys_values.append((k, v))
        # 2. Attend, one length group at a time, behind the cached prefixes of its sequences and behind
        #    the sequences that they continue.
        outputs, groups = [], []
        for group, prefix, bias in zip(context.groups, context.prefixes, context.biases, strict=True):
            group_q = group.pad_queries(q, self.kv_heads)
            group_k, group_v = group.pad_keys(k, self.kv_heads), group.pad_keys(v, self.kv_heads)
            if prefix is not None:
                group_k, group_v = prefix.prepend(self._index, group_k, group_v)
            output, weights = attention(group_q, group_k, group_v, self._scale, bias)
            outputs.append(group.unpad_queries(output, self.kv_heads))
            groups.append(GroupSaved(group_q, group_k, group_v, weights))
        # 3. Back to the order of the packed row.
        mixed = join_groups(outputs, context.groups, len(h))
        return mixed, AttentionSaved(h, inverse_rms, q_saved, k_saved, v_saved, q_heads, k_heads, groups)

    def attention_backward(
        self, d: Tensor, saved: AttentionSaved, context: ForwardContext, needs_dh: bool
    ) -> Tensor | None:
        """The derivative with respect to h, None unless `needs_dh`.

        The derivatives of the adapters' factors are added to their gradients.
        """
        # 3. Each group's derivatives, which reach the run's own keys and values but no cached prefix.
        d = d.view(len(d), -1, self._head_dim)
        parts_q, parts_k, parts_v = [], [], []
        for group, prefix, (q, k, v, weights) in zip(
            context.groups, context.prefixes, saved.groups, strict=True
        ):
            group_d = group.pad_zero(d, self.kv_heads)
            prefix_tokens = None if prefix is None else prefix.tokens
            dq, dk, dv = attention_backward(group_d, q, k, v, weights, self._scale, prefix_tokens)
            parts_q.append(group.unpad_queries(dq, self.kv_heads))
            parts_k.append(group.unpad_keys(dk, self.kv_heads))
            parts_v.append(group.unpad_keys(dv, self.kv_heads))
        # 2. Back to the order of the packed row, where a key of several sequences gets the sum of its
        #    derivatives, and through rotation and norm.
        dq = join_groups(parts_q, context.groups, len(saved.h))
        dk = sum_key_groups(parts_k, context.groups, len(saved.h))
        dv = sum_key_groups(parts_v, context.groups, len(saved.h))
        dq = self._rotate_heads_backward(dq, self._q_norm, saved.q_heads, context)
        dk = self._rotate_heads_backward(dk, self._k_norm, saved.k_heads, context)
        # 1. Through the projections. In the first adapted layer only the factors need a derivative.
        if not needs_dh:
            self._q_proj.adapters_backward(dq, saved.q_proj)
            self._k_proj.adapters_backward(dk, saved.k_proj)
            self._v_proj.adapters_backward(dv, saved.v_proj)
            return None
        dx = self._q_proj.backward(dq, saved.q_proj)
        self._k_proj.backward(dk, saved.k_proj, add_to=dx)
        self._v_proj.backward(dv, saved.v_proj, add_to=dx)
        return self._input_norm.backward(dx, saved.h, saved.inverse_rms)

    def mlp_forward(
        self, h: Float[Tensor, "T D"], mixed: Float[Tensor, "T A"], route: Route
    ) -> tuple[Float[Tensor, "T D"], MlpSaved]:
        """The layer's output, given its input h and its attention's output `mixed`."""
        h, o_saved = self._o_proj.forward(mixed, route, residual=h)
        x, inverse_rms = self._post_attention_norm.forward(h)
        gate, gate_saved = self._gate_proj.forward(x, route)
        up, up_saved = self._up_proj.forward(x, route)
        inner, activated = swiglu(gate, up)
        out, down_saved = self._down_proj.forward(inner, route, residual=h)
        return out, MlpSaved(
            h, inverse_rms, gate, up, activated, o_saved, gate_saved, up_saved, down_saved
        )

    def mlp_backward(self, d: Tensor, saved: MlpSaved) -> tuple[Tensor, Tensor]:
        """The derivatives with respect to h and `mixed`."""
        dinner = self._down_proj.backward(d, saved.down_proj)
        dgate, dup = swiglu_backward(dinner, saved.gate, saved.up, saved.activated)
        dx = self._gate_proj.backward(dgate, saved.gate_proj)
        dx = self._up_proj.backward(dup, saved.up_proj, add_to=dx)
        dh = self._post_attention_norm.backward(dx, saved.h, saved.inverse_rms).add_(d)
        return dh, self._o_proj.backward(dh, saved.o_proj)

    def decode_step(
        self,
        h: Float[Tensor, "B D"],
        cos: Float[Tensor, "B 1 C"],
        sin: Float[Tensor, "B 1 C"],
        bias: Float[Tensor, "M 1 K"],
        cache: KVCacheLayer,
        router: Router,
    ) -> Float[Tensor, "B D"]:
        """The layer's output for one further token per row, without a derivative."""
        # 1. Attention of each new token over its row of the cache.
        x, _ = self._input_norm.forward(h)
        q, k, v = (
            proj.infer(x, router).view(len(h), -1, self._head_dim)
            for proj in (self._q_proj, self._k_proj, self._v_proj)
        )
        q = rotate(self._q_norm.forward(q)[0] if self._q_norm else q, cos, sin)
        k = rotate(self._k_norm.forward(k)[0] if self._k_norm else k, cos, sin)
        keys, values = (t.flatten(0, 1) for t in cache.append_token(k, v))
        mixed, _ = attention(q.view(len(keys), -1, self._head_dim), keys, values, self._scale, bias)
        h = self._o_proj.infer(mixed.view(len(h), -1), router, residual=h)
        # 2. The MLP.
        x, _ = self._post_attention_norm.forward(h)
        inner, _ = swiglu(self._gate_proj.infer(x, router), self._up_proj.infer(x, router))
        return self._down_proj.infer(inner, router, residual=h)

    def trained_attention_factor(self, route: Route) -> Tensor | None:
        """A factor of the attention's adapters that requires a gradient, if one does."""
        return self._trained_factor(route, self._q_proj, self._k_proj, self._v_proj)

    def trained_mlp_factor(self, route: Route) -> Tensor | None:
        """A factor of the MLP's adapters, or of the output projection's, likewise."""
        return self._trained_factor(route, self._o_proj, self._gate_proj, self._up_proj, self._down_proj)

    def _trained_factor(self, route: Route, *linears: AdaptedLinear) -> Tensor | None:
        factors = (find_trained_factor(route.layer_updates(linear.path)) for linear in linears)
        return next((factor for factor in factors if factor is not None), None)

    def _rotate_heads(
        self, x: Tensor, norm: Norm | None, context: ForwardContext
    ) -> tuple[Float[Tensor, "T H D"], HeadsSaved]:
        """Query or key heads, normed where the model does so (Qwen3), at their rotary positions."""
        heads = x.view(len(x), -1, self._head_dim)
        normed, inverse_rms = norm.forward(heads) if norm else (heads, None)
        return rotate(normed, context.cos, context.sin), HeadsSaved(heads, inverse_rms)

    def _rotate_heads_backward(
        self, d: Tensor, norm: Norm | None, saved: HeadsSaved, context: ForwardContext
    ) -> Float[Tensor, "T A"]:
        d = rotate(d.view_as(saved.heads), context.cos, -context.sin)
        if norm is not None and saved.inverse_rms is not None:
            d = norm.backward(d, saved.heads, saved.inverse_rms)
        return d.flatten(1)


class _AttentionFunction(torch.autograd.Function):
    """`DecoderLayer.attention_forward` with its derivative.

    `trained` makes autograd ask for the derivative, although no gradient is returned for it: the layer
    adds the derivatives of the factors to their `.grad`.
    """

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, trained: Tensor | None, layer: DecoderLayer, context: ForwardContext
    ) -> Any:
        out, saved = layer.attention_forward(h, context)
        ctx.inputs, ctx.saved = (h, context), None if context.recompute else saved
        ctx.layer = layer
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        saved = ctx.saved or ctx.layer.attention_forward(*ctx.inputs)[1]
        dh = ctx.layer.attention_backward(*grad_outputs, saved, ctx.inputs[1], ctx.needs_input_grad[0])
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
        recompute: bool,
    ) -> Any:
        out, saved = layer.mlp_forward(h, mixed, route)
        ctx.inputs, ctx.saved = (h, mixed, route), None if recompute else saved
        ctx.layer = layer
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        saved = ctx.saved or ctx.layer.mlp_forward(*ctx.inputs)[1]
        return *ctx.layer.mlp_backward(*grad_outputs, saved), None, None, None, None


_run_attention: Callable[..., Any] = _AttentionFunction.apply
_run_mlp: Callable[..., Any] = _MlpFunction.apply
