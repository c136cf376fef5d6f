"""The parts of a Llama-like layer as pairs of a function and its derivative, each in few operations.

On a small model most of a step is dispatch and passes over memory, not matrix products: automatic
differentiation of the plain formulas makes some three times as many. Tokens are rows of a flat [T, D].
"""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

FUSED_ATTENTION_TOKENS = 1024
"""Sequences from here on are attended without keeping their T x T weights, which is slower on a CPU."""


def fused_attention_threshold(device: torch.device) -> int:
    """Attention over more tokens than these is PyTorch's fused one. An accelerator has it for any."""
    return FUSED_ATTENTION_TOKENS if device.type == "cpu" else 0


def rms_norm(
    x: Float[Tensor, "*T D"], weight: Float[Tensor, "D"], eps: float
) -> tuple[Float[Tensor, "*T D"], Float[Tensor, "*T 1"]]:
    """x / rms(x) * weight (arXiv 1910.07467), and 1 / rms(x) in float32."""
    wide = x.float()
    inverse = torch.linalg.vecdot(wide, wide)[..., None].div_(x.shape[-1]).add_(eps).rsqrt_()
    return (wide * inverse).to(x.dtype) * weight, inverse


def rms_norm_backward(
    dy: Float[Tensor, "*T D"],
    x: Float[Tensor, "*T D"],
    weight: Float[Tensor, "D"],
    inverse: Float[Tensor, "*T 1"],
) -> Float[Tensor, "*T D"]:
    scaled, g = x.float() * inverse, (dy * weight).float()
    along = torch.linalg.vecdot(g, scaled)[..., None].div_(x.shape[-1])
    return torch.addcmul(g, scaled, along, value=-1.0).mul_(inverse).to(x.dtype)


def rotate(
    x: Float[Tensor, "T H D"], cos: Float[Tensor, "T 1 C"], sin: Float[Tensor, "T 1 C"]
) -> Float[Tensor, "T H D"]:
    """Rotary positions (arXiv 2104.09864) by halves; the derivative is the turn by -sin."""
    (one, two), out = x.chunk(2, -1), torch.empty_like(x)
    first, second = out.chunk(2, -1)
    torch.mul(one, cos, out=first)
    torch.mul(two, cos, out=second)
    first.addcmul_(two, sin, value=-1.0)
    second.addcmul_(one, sin)
    return out


def swiglu(gate: Float[Tensor, "T F"], up: Float[Tensor, "T F"]) -> tuple[Tensor, Tensor]:
    """silu(gate) * up (arXiv 2002.05202), and silu(gate)."""
    opened = torch.nn.functional.silu(gate)
    return opened * up, opened


def swiglu_backward(
    d: Float[Tensor, "T F"],
    gate: Float[Tensor, "T F"],
    up: Float[Tensor, "T F"],
    opened: Float[Tensor, "T F"],
) -> tuple[Float[Tensor, "T F"], Float[Tensor, "T F"]]:
    """The derivatives with respect to gate and up."""
    return torch.ops.aten.silu_backward(d * up, gate), d * opened


@lru_cache(maxsize=64)
def causal_mask(
    width: int, share: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "Q W"]:
    """0 where a query may look and -inf ahead of it; each position has `share` queries in a row."""
    ahead = torch.full((width, width), float("-inf"), dtype=dtype, device=device).triu(1)
    return ahead.repeat_interleave(share, 0)


def attention(
    q: Float[Tensor, "N Q D"],
    k: Float[Tensor, "N K D"],
    v: Float[Tensor, "N K D"],
    scale: float,
    bias: Float[Tensor, "_ #Q K"] | None = None,
) -> tuple[Float[Tensor, "N Q D"], tuple[Tensor, ...]]:
    """Causal softmax(scale q k^T) v, and what `attention_backward` wants.

    A position's Q / W queries, which share its key head, are neighbours. There are K = W keys, or, with
    a `bias` that masks them, those of tokens before them in front.
    """
    if bias is not None:
        weights = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=scale).softmax(-1)
        return torch.bmm(weights, v), (weights,)
    if k.shape[1] > fused_attention_threshold(k.device):
        return _fused(q, k, v, scale)
    bias = causal_mask(k.shape[1], q.shape[1] // k.shape[1], q.dtype, q.device)
    weights = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=scale).softmax(-1)
    return torch.bmm(weights, v), (weights,)


def attention_backward(
    d: Float[Tensor, "N Q D"],
    q: Float[Tensor, "N Q D"],
    k: Float[Tensor, "N K D"],
    v: Float[Tensor, "N K D"],
    kept: tuple[Tensor, ...],
    scale: float,
    before: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The derivatives with respect to q, k and v; with a bias, without those of the tokens `before`."""
    weights, *fused = kept
    if fused:
        dq, dk, dv = torch.autograd.grad(weights, fused, d.view_as(q))
        return dq, dk, dv
    dv = torch.bmm(weights[:, :, before:].transpose(1, 2), d)
    dweights = torch.bmm(d, v.transpose(1, 2))
    scores = _softmax_back(dweights, weights, -1, weights.dtype).mul_(scale)
    return torch.bmm(scores, k), torch.bmm(scores[:, :, before:].transpose(1, 2), q), dv


def _fused(
    q: Float[Tensor, "N Q D"], k: Float[Tensor, "N W D"], v: Float[Tensor, "N W D"], scale: float
) -> tuple[Float[Tensor, "N Q D"], tuple[Tensor, ...]]:
    """By PyTorch's attention, whose derivative is automatic: each device has kernels of its own."""
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in (q, k, v)]
        by_head = inputs[0].unflatten(1, (k.shape[1], -1)).transpose(1, 2)  # [N, G, W, D]
        keys, values = (x[:, None].expand_as(by_head) for x in inputs[1:])
        found = scaled_dot_product_attention(by_head, keys, values, is_causal=True, scale=scale)
        out = found.transpose(1, 2).flatten(1, 2)
    return out.detach(), (out, *inputs)  # its way back needs no weights


_softmax_back = torch.ops.aten._softmax_backward_data
