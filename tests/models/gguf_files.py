"""Small GGUF files for tests, written with llama.cpp's own package from tiny models."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

from ouroboros.testing.tiny import tiny_model

_LAYERS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(
    path: Path,
    folder: Path,
    architecture: str = "llama",
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    *,
    drop: tuple[str, ...] = (),
    extra_tensors: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write the model in `folder` as llama.cpp keeps it.

    `changes` replace values of the metadata, with `__` for dots; None leaves one out. `drop` names
    tensors to leave out.
    """
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (_metadata(folder, config, architecture) | _replace_underscores(changes)).items():
        _add_value(writer, key, value)
    for name, weights in load_file(folder / "model.safetensors").items():
        renamed = _rename(name)
        if renamed in drop:
            continue
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = weights.shape[0] // config["head_dim"]
            halves = weights.reshape(heads, 2, -1, weights.shape[1])
            weights = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weights.shape))
        if weights.ndim == 2 and kind != gguf.GGMLQuantizationType.F32:
            writer.add_tensor(renamed, gguf.quantize(weights, kind), raw_dtype=kind)
        else:
            writer.add_tensor(renamed, weights.astype(np.float32))
    for name, weights in (extra_tensors or {}).items():
        writer.add_tensor(name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny_gguf(folder: Path, architecture: str = "llama", **how: Any) -> tuple[Path, Path]:
    """A tiny model's folder, and the same model as a GGUF file."""
    model = tiny_model(folder / "original", architecture, head_dim=16)
    return model, write_gguf(folder / "model.gguf", model, architecture, **how)


def raw_header(
    pairs: Sequence[bytes], tensors: Sequence[bytes] = (), *, counts: tuple[int, int] | None = None
) -> bytes:
    """The bytes of a header that the writer would refuse to write."""
    tensor_count, pair_count = counts or (len(tensors), len(pairs))
    return b"GGUF" + struct.pack("<IQQ", 3, tensor_count, pair_count) + b"".join([*pairs, *tensors])


def raw_text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _metadata(folder: Path, config: dict[str, Any], name: str) -> dict[str, Any]:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = dict(tokenizer["model"]["vocab"])
    special = {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    tokens = [t for t, _ in sorted((vocabulary | special).items(), key=lambda item: item[1])]
    template = folder / "chat_template.jinja"
    return {
        "general.name": "tiny",
        f"{name}.embedding_length": config["hidden_size"],
        f"{name}.block_count": config["num_hidden_layers"],
        f"{name}.feed_forward_length": config["intermediate_size"],
        f"{name}.context_length": config["max_position_embeddings"],
        f"{name}.attention.head_count": config["num_attention_heads"],
        f"{name}.attention.head_count_kv": config["num_key_value_heads"],
        f"{name}.attention.key_length": config["head_dim"],
        f"{name}.rope.dimension_count": config["head_dim"],
        f"{name}.rope.freq_base": float(config["rope_parameters"]["rope_theta"]),
        f"{name}.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if t in special else 1 for t in tokens],
        "tokenizer.ggml.merges": [
            m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]
        ],
        "tokenizer.ggml.eos_token_id": special["<|end|>"],
        "tokenizer.ggml.padding_token_id": special["<|pad|>"],
        "tokenizer.chat_template": template.read_text() if template.is_file() else None,
    }


def _replace_underscores(changes: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("__", "."): value for key, value in changes.items()}


def _add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case None:
            return
        case str():
            writer.add_string(key, value)
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case _:
            writer.add_array(key, value)


def _rename(name: str) -> str:
    path, _, leaf = name.rpartition(".")
    if path in _OUTSIDE:
        return f"{_OUTSIDE[path]}.{leaf}"
    _, _, number, rest = path.split(".", 3)
    return f"blk.{number}.{_LAYERS[rest]}.{leaf}"
