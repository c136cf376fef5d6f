"""Export adapters as GGUF files, which llama.cpp and Ollama load with a base in the same format.

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
"""llama.cpp's names of the architectures whose layers it names as below."""

_LAYER_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_PATH_PATTERN = re.compile(r"model\.layers\.(\d+)\.(.+)")
_INTERLEAVED = ("self_attn.q_proj", "self_attn.k_proj")
"""Layers whose outputs llama.cpp orders differently from transformers, for its `llama` architecture."""

_ALIGNMENT = 32
_UINT32, _FLOAT32, _TEXT, _ARRAY = 4, 6, 8, 9
"""Types of key-value pairs. As the type of a tensor, float32 is 0."""


def to_gguf(weights: LoraWeights, base: BaseModel, invocation: Sequence[int] = ()) -> bytes:
    """Convert an adapter to one GGUF file in float32.

    With `invocation`, the adapter acts from these token ids on. Raises `InvalidAdapter` for
    architectures and layers without a known name in llama.cpp.
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
        name = _gguf_name(path)
        b = low.b * (low.scale * low.rank / alpha)
        if architecture == "llama" and path.endswith(_INTERLEAVED):
            b = _interleave(b, _head_width(base, path, low))
        tensors += [(f"{name}.lora_a", low.a), (f"{name}.lora_b", b)]
    metadata = [
        _encode_pair("general.architecture", _TEXT, _encode_text(architecture)),
        _encode_pair("general.type", _TEXT, _encode_text("adapter")),
        _encode_pair("adapter.type", _TEXT, _encode_text("lora")),
        _encode_pair("adapter.lora.alpha", _FLOAT32, struct.pack("<f", alpha)),
    ]
    if invocation:
        ids = struct.pack(f"<IQ{len(invocation)}I", _UINT32, len(invocation), *invocation)
        metadata.append(_encode_pair("adapter.alora.invocation_tokens", _ARRAY, ids))
    return _write_container(metadata, tensors)


def _gguf_name(path: str) -> str:
    """llama.cpp's name of a layer's weight."""
    match = _PATH_PATTERN.fullmatch(path)
    layer = _LAYER_NAMES.get(match[2]) if match else None
    if match is None or layer is None:
        raise InvalidAdapter(f"{path} has no known name in GGUF.", hint="Export a PEFT folder instead.")
    return f"blk.{match[1]}.{layer}.weight"


def _head_width(base: BaseModel, path: str, low: LowRank) -> int:
    """Outputs per attention head. Keys may have fewer heads than queries, but of the same width."""
    query = path.replace("k_proj", "q_proj")
    outputs = next((s.outputs for s in base.linears if s.path == query), low.b.shape[0])
    return outputs // base.heads


def _interleave(b: Float[Tensor, "O R"], width: int) -> Float[Tensor, "O R"]:
    """Make the halves of rotary pairs adjacent; transformers stores all first halves first."""
    return b.view(-1, 2, width // 2, b.shape[1]).swapaxes(1, 2).reshape(b.shape)


def _write_container(metadata: list[bytes], tensors: list[tuple[str, Tensor]]) -> bytes:
    header = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata)), *metadata]
    data: list[bytes] = []
    offset = 0
    for name, tensor in tensors:
        raw = _pad_to_alignment([tensor.to(torch.float32).contiguous().numpy().tobytes()])
        header.append(_encode_text(name) + struct.pack("<I", tensor.dim()))
        header.append(struct.pack(f"<{tensor.dim()}QIQ", *reversed(tensor.shape), 0, offset))
        data.append(raw)
        offset += len(raw)
    return _pad_to_alignment(header) + b"".join(data)


def _encode_pair(key: str, kind: int, value: bytes) -> bytes:
    return _encode_text(key) + struct.pack("<I", kind) + value


def _encode_text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _pad_to_alignment(parts: Iterable[bytes]) -> bytes:
    """Join the parts and pad them with zeros to a multiple of the alignment."""
    raw = b"".join(parts)
    return raw + bytes(-len(raw) % _ALIGNMENT)
