"""The parts of a Llama-like layer as pairs of a function and its derivative, each in few operations.

On a small model most of a step is dispatch and passes over memory, not matrix products. Automatic
differentiation of the plain formulas takes about three times as many operations. Tokens are rows of a
flat [T, D].
"""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

FUSED_ATTENTION_TOKENS = 1024
"""Above so many tokens, attention on a CPU does not save its T x T weights. That is slower, but takes
less memory."""

_softmax_backward = torch.ops.aten._softmax_backward_data


def fused_attention_threshold(device: torch.device) -> int:
    """Attention over more tokens than these is PyTorch's fused one. An accelerator fuses any length."""
    return FUSED_ATTENTION_TOKENS if device.type == "cpu" else 0


def rms_norm(
    x: Float[Tensor, "*T D"], weight: Float[Tensor, "D"], eps: float
) -> tuple[Float[Tensor, "*T D"], Float[Tensor, "*T 1"]]:
    """x / rms(x) * weight (arXiv 1910.07467), and 1 / rms(x) in float32."""
    wide = x.float()
    inverse_rms = torch.linalg.vecdot(wide, wide)[..., None].div_(x.shape[-1]).add_(eps).rsqrt_()
    return (wide * inverse_rms).to(x.dtype) * weight, inverse_rms


def rms_norm_backward(
    dy: Float[Tensor, "*T D"],
    x: Float[Tensor, "*T D"],
    weight: Float[Tensor, "D"],
    inverse_rms: Float[Tensor, "*T 1"],
) -> Float[Tensor, "*T D"]:
    """The derivative with respect to x: (g - n * mean(g * n)) / rms(x), with n = x / rms(x)."""
    normed, g = x.float() * inverse_rms, (dy * weight).float()
    mean = torch.linalg.vecdot(g, normed)[..., None].div_(x.shape[-1])
    return torch.addcmul(g, normed, mean, value=-1.0).mul_(inverse_rms).to(x.dtype)


def rotate(
    x: Float[Tensor, "T H D"], cos: Float[Tensor, "T 1 C"], sin: Float[Tensor, "T 1 C"]
) -> Float[Tensor, "T H D"]:
    """Rotary positions (arXiv 2104.09864) by halves. The derivative is the rotation by -sin."""
    (x1, x2), out = x.chunk(2, -1), torch.empty_like(x)
    out1, out2 = out.chunk(2, -1)
    torch.mul(x1, cos, out=out1)
    torch.mul(x2, cos, out=out2)
    out1.addcmul_(x2, sin, value=-1.0)
    out2.addcmul_(x1, sin)
    return out


def swiglu(gate: Float[Tensor, "T F"], up: Float[Tensor, "T F"]) -> tuple[Tensor, Tensor]:
    """silu(gate) * up (arXiv 2002.05202), and silu(gate)."""
    activated = torch.nn.functional.silu(gate)
    return activated * up, activated


def swiglu_backward(
    d: Float[Tensor, "T F"],
    gate: Float[Tensor, "T F"],
    up: Float[Tensor, "T F"],
    activated: Float[Tensor, "T F"],
) -> tuple[Float[Tensor, "T F"], Float[Tensor, "T F"]]:
    """The derivatives with respect to gate and up."""
    return torch.ops.aten.silu_backward(d * up, gate), d * activated


@lru_cache(maxsize=64)
def causal_mask(
    width: int, queries_per_key: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "Q W"]:
    """0 where a query may attend, -inf ahead of it. A position's queries are neighbouring rows."""
    ahead = torch.full((width, width), float("-inf"), dtype=dtype, device=device).triu(1)
    return ahead.repeat_interleave(queries_per_key, 0)


def attention(
    q: Float[Tensor, "N Q D"],
    k: Float[Tensor, "N K D"],
    v: Float[Tensor, "N K D"],
    scale: float,
    bias: Float[Tensor, "_ #Q K"] | None = None,
) -> tuple[Float[Tensor, "N Q D"], tuple[Tensor, ...]]:
    """Causal softmax(scale q k^T) v, and what `attention_backward` takes as `saved`.

    The Q / W queries of a position share its key head and are neighbouring rows. Without a `bias` there
    are as many keys as positions, K = W. With one, which does the masking, the keys of a prefix or of a
    KV cache come first.
    """
    if bias is None and k.shape[1] > fused_attention_threshold(k.device):
        return _fused_attention(q, k, v, scale)
    if bias is None:
        bias = causal_mask(k.shape[1], q.shape[1] // k.shape[1], q.dtype, q.device)
    # The product, its scale and the mask in one call.
    weights = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=scale).softmax(-1)
    return torch.bmm(weights, v), (weights,)


def attention_backward(
    d: Float[Tensor, "N Q D"],
    q: Float[Tensor, "N Q D"],
    k: Float[Tensor, "N K D"],
    v: Float[Tensor, "N K D"],
    saved: tuple[Tensor, ...],
    scale: float,
    prefix_tokens: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The derivatives with respect to q, k and v.

    The first `prefix_tokens` keys and values get none: a cached prefix has no gradient.
    """
    weights, *fused_inputs = saved
    if fused_inputs:
        dq, dk, dv = torch.autograd.grad(weights, fused_inputs, d.view_as(q))
        return dq, dk, dv
    dv = torch.bmm(weights[:, :, prefix_tokens:].transpose(1, 2), d)
    dweights = torch.bmm(d, v.transpose(1, 2))
    dscores = _softmax_backward(dweights, weights, -1, weights.dtype).mul_(scale)
    dk = torch.bmm(dscores[:, :, prefix_tokens:].transpose(1, 2), q)
    return torch.bmm(dscores, k), dk, dv


def _fused_attention(
    q: Float[Tensor, "N Q D"], k: Float[Tensor, "N W D"], v: Float[Tensor, "N W D"], scale: float
) -> tuple[Float[Tensor, "N Q D"], tuple[Tensor, ...]]:
    """The same by PyTorch's attention, which each device computes by kernels of its own.

    Its derivative is automatic: the saved tensors are its output with its graph, and its inputs.
    """
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in (q, k, v)]
        by_head = inputs[0].unflatten(1, (k.shape[1], -1)).transpose(1, 2)  # [N, G, W, D]
        keys, values = (x[:, None].expand_as(by_head) for x in inputs[1:])
        attended = scaled_dot_product_attention(by_head, keys, values, is_causal=True, scale=scale)
        out = attended.transpose(1, 2).flatten(1, 2)
    return out.detach(), (out, *inputs)
