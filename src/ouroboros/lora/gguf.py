"""Adapters as GGUF files, which llama.cpp and Ollama load beside a base in the same format.

The container (version 3): magic, counts, key-value pairs, descriptions of the tensors, then their
data, each aligned to 32 bytes. llama.cpp scales an update by alpha / rank, however it was trained.
"""

import re
import struct
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.errors import InvalidAdapter
from ouroboros.lora.weights import LoraWeights, LowRank

_ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
}
"""What llama.cpp calls the architectures whose layers it names as below."""

_LAYERS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_PATH = re.compile(r"model\.layers\.(\d+)\.(.+)")
_INTERLEAVED = ("self_attn.q_proj", "self_attn.k_proj")
"""Whose outputs llama.cpp's llama keeps in another order than transformers does."""

_ALIGNMENT = 32
_UINT32, _FLOAT32, _TEXT, _LIST = 4, 6, 8, 9
"""Types of key-value pairs; as a tensor's type, float32 is 0."""


def to_gguf(weights: LoraWeights, base: BaseModel, invocation: Sequence[int] = ()) -> bytes:
    """The adapter as one GGUF file in float32; with `invocation`, one that acts from these tokens on.

    Raises `InvalidAdapter` for architectures and layers whose names in llama.cpp are not known here.
    """
    architecture = _ARCHITECTURES.get(base.architecture)
    if architecture is None:
        raise InvalidAdapter(
            f"There is no GGUF export for {base.architecture}.",
            hint=f"There is one for {', '.join(_ARCHITECTURES)}; export a PEFT folder instead.",
        )
    alpha = float(max(low.scale * low.rank for low in weights.values()))
    tensors: list[tuple[str, Tensor]] = []
    for path, low in sorted(weights.items()):
        name = _name(path)
        b = low.b * (low.scale * low.rank / alpha)
        if architecture == "llama" and path.endswith(_INTERLEAVED):
            b = _interleave(b, _head_width(base, path, low))
        tensors += [(f"{name}.lora_a", low.a), (f"{name}.lora_b", b)]
    facts = [
        _pair("general.architecture", _TEXT, _text(architecture)),
        _pair("general.type", _TEXT, _text("adapter")),
        _pair("adapter.type", _TEXT, _text("lora")),
        _pair("adapter.lora.alpha", _FLOAT32, struct.pack("<f", alpha)),
    ]
    if invocation:
        ids = struct.pack(f"<IQ{len(invocation)}I", _UINT32, len(invocation), *invocation)
        facts.append(_pair("adapter.alora.invocation_tokens", _LIST, ids))
    return _container(facts, tensors)


def _name(path: str) -> str:
    """What llama.cpp calls a layer's weight."""
    found = _PATH.fullmatch(path)
    layer = _LAYERS.get(found[2]) if found else None
    if found is None or layer is None:
        raise InvalidAdapter(f"{path} has no known name in GGUF.", hint="Export a PEFT folder instead.")
    return f"blk.{found[1]}.{layer}.weight"


def _head_width(base: BaseModel, path: str, low: LowRank) -> int:
    """Outputs per attention head; keys may have fewer heads than queries, of the same width."""
    query = path.replace("k_proj", "q_proj")
    outputs = next((s.outputs for s in base.linears if s.path == query), low.b.shape[0])
    return outputs // base.heads


def _interleave(b: Float[Tensor, "O R"], width: int) -> Float[Tensor, "O R"]:
    """Rotary pairs side by side: transformers keeps the first halves of all pairs before the second."""
    return b.view(-1, 2, width // 2, b.shape[1]).swapaxes(1, 2).reshape(b.shape)


def _container(facts: list[bytes], tensors: list[tuple[str, Tensor]]) -> bytes:
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(facts)), *facts]
    data: list[bytes] = []
    at = 0
    for name, tensor in tensors:
        raw = _padded([tensor.to(torch.float32).contiguous().numpy().tobytes()])
        head.append(_text(name) + struct.pack("<I", tensor.dim()))
        head.append(struct.pack(f"<{tensor.dim()}QIQ", *reversed(tensor.shape), 0, at))
        data.append(raw)
        at += len(raw)
    return _padded(head) + b"".join(data)


def _pair(key: str, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _padded(parts: Iterable[bytes]) -> bytes:
    """The parts joined, with zeros up to the next multiple of the alignment."""
    raw = b"".join(parts)
    return raw + bytes(-len(raw) % _ALIGNMENT)
