"""A GGUF file as a folder in Hugging Face format: config, tokenizer, chat template, weights in bfloat16.

The names and layouts are llama.cpp's for decoders of Llama's kind. Tensors are dequantised one at a
time, so the peak of memory is one tensor in float32. What this module does not know it refuses: to drop
a scaling of positions or a rule for splitting text would give a model that answers worse and says
nothing.
"""

import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ouroboros.domain.errors import ModelError
from ouroboros.models.digests import file_digest
from ouroboros.models.gguf_header import BLOCKS, GGUFHeader, TensorInfo, read_header
from ouroboros.models.limits import check_config

if TYPE_CHECKING:
    import numpy as np

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""llama.cpp's names of the architectures that are converted, and transformers'. Mistral's is llama."""

_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_BIASED = ("qwen2",)
"""Whose queries, keys and values have biases."""

_ROPE_FACTORS = "rope_freqs.weight"
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What all of Llama 3.1 to 3.3 scale positions by, but for the factor."""

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPLITS = {
    "gpt-2": None,
    "smollm": None,
    "llama-bpe": rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""How byte-level vocabularies cut text before merging, by `tokenizer.ggml.pre`; None: GPT-2's rule."""
_SPLITS |= {"llama3": _SPLITS["llama-bpe"], "llama-v3": _SPLITS["llama-bpe"]}

_TOKENIZERS = ("gpt2", "llama")
"""Byte-level BPE, and SentencePiece's BPE."""

_CONTROL, _USER_DEFINED = 3, 4
"""Types of tokens."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """The sizes that a file states of its model."""

    architecture: str
    width: int
    layers: int
    heads: int
    key_heads: int
    head_width: int
    inner: int
    vocabulary: int


def check_gguf(path: Path) -> GGUFHeader:
    """The header of a file that can be converted, by its header alone.

    Raises `ModelError` for a file that is missing, damaged or cut, and for an architecture, a
    quantisation or a tokenizer that is not known here.
    """
    if not path.is_file():
        raise ModelError(f"There is no GGUF file at {path}.", hint="Check the path.")
    header = read_header(path)
    kind = header.metadata.get("general.type", "model")
    if kind != "model":
        raise ModelError(
            f"{path} holds no model but: {str(kind)[:40]!r}.",
            hint="Give a model's GGUF file; an adapter's is not one.",
        )
    if header.architecture not in ARCHITECTURES:
        raise ModelError(
            f"{path} is of the architecture {header.architecture[:40]!r}, which cannot be converted.",
            hint=f"Known are {', '.join(ARCHITECTURES)}; give others as a Hugging Face folder or id.",
        )
    shape = _shape(path, header)
    _check_tokenizer(path, header)
    _check_tensors(path, header, shape)
    check_config(_config(path, header, shape), str(path))
    return header


def convert_gguf(
    path: Path, folder: Path, header: GGUFHeader | None = None, digest: str | None = None
) -> dict[str, Any]:
    """Write the model of a GGUF file into an empty folder; returns what to record of its origin."""
    header = header or check_gguf(path)
    shape = _shape(path, header)
    config = _config(path, header, shape)
    _write_tokenizer(path, folder, header)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _write_weights(path, folder / "model.safetensors", header, shape)
    return {
        "name": str(header.metadata.get("general.name", path.stem))[:200],
        "gguf": {"file": path.name, "bytes": path.stat().st_size, "sha256": digest or file_digest(path)},
        "quantization": header.quantization,
    }


# --- the configuration ---------------------------------------------------------------------------


def _shape(path: Path, header: GGUFHeader) -> _Shape:
    name = header.architecture

    def read_size(key: str, default: int | None = None) -> int:
        value = header.metadata.get(f"{name}.{key}", default)
        if type(value) is not int or not 0 < value < 1 << 31:
            raise ModelError(
                f"{path} is damaged: it states {name}.{key} as {str(value)[:40]}.",
                hint="Fetch it again, and compare its checksum.",
            )
        return value

    # The width of a head and the size of the vocabulary need not be stated: derive them from the rest.
    width, heads = read_size("embedding_length"), read_size("attention.head_count")
    stated = read_size("rope.dimension_count", max(width // heads, 1))
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    embedding = header.tensors.get("token_embd.weight")
    return _Shape(
        architecture=name,
        width=width,
        layers=read_size("block_count"),
        heads=heads,
        key_heads=read_size("attention.head_count_kv", heads),
        head_width=read_size("attention.key_length", stated),
        inner=read_size("feed_forward_length"),
        vocabulary=embedding.shape[0] if embedding else len(tokens or ()),
    )


def _config(path: Path, header: GGUFHeader, shape: _Shape) -> dict[str, Any]:
    facts, name = header.metadata, shape.architecture
    base = facts.get(f"{name}.rope.freq_base", 10000.0)
    epsilon = facts.get(f"{name}.attention.layer_norm_rms_epsilon")
    if not all(isinstance(x, float) and 0 < x < 1e30 for x in (base, epsilon)):
        raise ModelError(
            f"{path} is damaged: its epsilon is {epsilon} and its base of positions {base}.",
            hint="Fetch it again, and compare its checksum.",
        )
    # A chat model may end a turn with another token than a text: an answer ends at either.
    ends = [facts.get(f"tokenizer.ggml.{k}_token_id") for k in ("eos", "eot")]
    ends = [end for end in dict.fromkeys(ends) if end is not None]
    return {
        "architectures": [_CLASSES[name]],
        "model_type": ARCHITECTURES[name],
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_heads,
        "head_dim": shape.head_width,
        "max_position_embeddings": facts.get(f"{name}.context_length", 2048),
        "rms_norm_eps": _shortest(float(epsilon or 0)),
        "rope_parameters": {"rope_theta": _shortest(base), **_rope_scaling(path, header, shape)},
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "bos_token_id": facts.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": facts.get("tokenizer.ggml.padding_token_id"),
        "dtype": "bfloat16",
    }


def _shortest(value: float) -> float:
    """The shortest decimal of a float32: 1e-05 for 9.999999747378752e-06, which is the same float32."""
    return float(f"{value:.7g}")


def _rope_scaling(path: Path, header: GGUFHeader, shape: _Shape) -> dict[str, Any]:
    """Llama 3's scaling out of the table of factors that llama.cpp keeps; others are refused."""
    stated = header.metadata.get(f"{shape.architecture}.rope.scaling.type", "none")
    rotated = header.metadata.get(f"{shape.architecture}.rope.dimension_count", shape.head_width)
    if stated != "none" or rotated != shape.head_width:
        raise ModelError(
            f"{path} scales positions in a way that is not known here ({str(stated)[:40]}, {rotated}).",
            hint="Give this model as a Hugging Face folder or id.",
        )
    info = header.tensors.get(_ROPE_FACTORS)
    if info is None:
        return {"rope_type": "default"}
    factors = _read_tensor(path, info).reshape(-1)
    scaling = {"rope_type": "llama3", "factor": float(factors.max()), **_LLAMA3}
    base = _shortest(header.metadata.get(f"{shape.architecture}.rope.freq_base", 10000.0))
    expected = [
        _llama3_factor(base ** (-2 * i / shape.head_width), scaling) for i in range(len(factors))
    ]
    if len(factors) != shape.head_width // 2 or any(
        abs(f - e) > 1e-3 * e for f, e in zip(factors.tolist(), expected, strict=True)
    ):
        raise ModelError(
            f"{path} scales positions by a table of its own.",
            hint="Give this model as a Hugging Face folder or id.",
        )
    return scaling


def _llama3_factor(frequency: float, scaling: dict[str, Any]) -> float:
    """By how much Llama 3 slows a frequency down: not at all above one bound, fully below another."""
    length = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = length * frequency / (2 * math.pi)
    share = min(max((turns - low) / (high - low), 0.0), 1.0)
    return 1 / ((1 - share) / scaling["factor"] + share)


# --- the tokenizer -------------------------------------------------------------------------------


def _check_tokenizer(path: Path, header: GGUFHeader) -> None:
    facts = header.metadata
    # 1. The kind of tokenizer must be known: another kind would read the same text as other tokens.
    kind, tokens = facts.get("tokenizer.ggml.model"), facts.get("tokenizer.ggml.tokens")
    if kind is None or not tokens:
        raise ModelError(
            f"{path} holds no tokenizer.",
            hint="Take a GGUF file made from the whole model, or give the model as a folder.",
        )
    if kind not in _TOKENIZERS:
        raise ModelError(
            f"{path} has a tokenizer of the kind {str(kind)[:40]!r}, which is not known here.",
            hint=f"Known are {', '.join(_TOKENIZERS)}; give this model as a Hugging Face folder or id.",
        )
    split = facts.get("tokenizer.ggml.pre", "gpt-2")
    if kind == "gpt2" and split not in _SPLITS:
        raise ModelError(
            f"{path} has a tokenizer that cuts text as {str(split)[:40]!r}, which is not known here.",
            hint=f"Known are {', '.join(_SPLITS)}; give this model as a Hugging Face folder or id.",
        )
    # 2. The lists must have the right types and lengths: the conversion relies on both.
    lists = {"tokens": str, "merges": str, "scores": float, "token_type": int}
    for name, item in lists.items():
        values = facts.get(f"tokenizer.ggml.{name}", [])
        wrong = not isinstance(values, list) or not all(type(v) is item for v in values)
        if wrong or (name != "merges" and values and len(values) != len(tokens)):
            raise ModelError(
                f"{path} is damaged: its tokenizer's {name} do not fit.",
                hint="Fetch it again, and compare its checksum.",
            )
    if kind == "gpt2" and any(m.count(" ") != 1 for m in facts.get("tokenizer.ggml.merges", [])):
        raise ModelError(
            f"{path} is damaged: a merge of its tokenizer is no pair.",
            hint="Fetch it again, and compare its checksum.",
        )
    # 3. Special tokens must be in the vocabulary, and the chat template must be text.
    ids = [
        facts.get(f"tokenizer.ggml.{k}_token_id") for k in ("bos", "eos", "eot", "unknown", "padding")
    ]
    if any(i is not None and (type(i) is not int or not 0 <= i < len(tokens)) for i in ids):
        raise ModelError(
            f"{path} is damaged: a special token's id is not in its vocabulary.",
            hint="Fetch it again, and compare its checksum.",
        )
    template = facts.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise ModelError(f"{path} is damaged: its chat template is no text.", hint="Fetch it again.")


def _write_tokenizer(path: Path, folder: Path, header: GGUFHeader) -> None:
    from transformers.utils import logging

    # What transformers has to say about a tokenizer without a model is nothing to the user.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        byte_level = header.metadata["tokenizer.ggml.model"] == "gpt2"
        tokenizer = _byte_level_tokenizer(header) if byte_level else _sentencepiece_tokenizer(path)
        tokenizer.chat_template = header.metadata.get("tokenizer.chat_template")
        extra = len(tokenizer) - len(header.metadata["tokenizer.ggml.tokens"])
        if extra > 0:
            raise _misfit_error(path, f"its tokenizer would get {extra} tokens that it does not state")
        tokenizer.save_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, for the cache to explain
        raise _misfit_error(path, f"its tokenizer is damaged ({str(error)[:200]})") from error
    finally:
        logging.set_verbosity(verbosity)


def _byte_level_tokenizer(header: GGUFHeader) -> Any:
    """Byte-level BPE, of the parts that the file states and no others."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    facts = header.metadata
    tokens = facts["tokenizer.ggml.tokens"]
    # 1. Vocabulary and merges.
    merges = [tuple(merge.split(" ")) for merge in facts.get("tokenizer.ggml.merges", [])]
    pipeline = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    pipeline.decoder = decoders.ByteLevel()

    # 2. Text is cut as the vocabulary was learned.
    split = facts.get("tokenizer.ggml.pre", "gpt-2")
    pattern = _SPLITS[split]
    chain: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)]
    if split == "smollm":
        chain.insert(0, pre_tokenizers.Digits(individual_digits=True))
    elif pattern is not None:
        chain.insert(0, pre_tokenizers.Split(Regex(pattern), behavior="isolated"))
    pipeline.pre_tokenizer = pre_tokenizers.Sequence(chain)

    # 3. Tokens that are never cut: control tokens are special, tokens of the user's are not.
    kinds = facts.get("tokenizer.ggml.token_type", [])
    for kind, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        whole = [t for t, k in zip(tokens, kinds, strict=False) if k == kind]
        pipeline.add_tokens([AddedToken(t, normalized=False, special=special) for t in whole])

    # 4. Tokens with a role, and the one that plain text starts with.
    roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {role: facts.get(f"tokenizer.ggml.{name}_token_id") for role, name in roles.items()}
    named = {f"{role}_token": tokens[i] for role, i in ids.items() if i is not None}
    if facts.get("tokenizer.ggml.add_bos_token") is True and "bos_token" in named:
        start = named["bos_token"]
        pipeline.post_processor = processors.TemplateProcessing(
            single=[start, "$A"], special_tokens=[(start, ids["bos"])]
        )
    return PreTrainedTokenizerFast(tokenizer_object=pipeline, **named)


def _sentencepiece_tokenizer(path: Path) -> Any:
    """SentencePiece's BPE, as transformers makes it: merges follow from the scores."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        # It takes the name of a file in a folder; Ollama's blobs need no ending.
        return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    finally:
        if bar:
            logging.enable_progress_bar()


# --- the weights ---------------------------------------------------------------------------------


def _expected_tensors(shape: _Shape, header: GGUFHeader) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Every tensor of the model: its name in the file, its name in transformers, its shape."""
    queries, keys = shape.heads * shape.head_width, shape.key_heads * shape.head_width
    names = {
        "token_embd.weight": ("model.embed_tokens.weight", (shape.vocabulary, shape.width)),
        "output_norm.weight": ("model.norm.weight", (shape.width,)),
    }
    if "output.weight" in header.tensors:
        names["output.weight"] = ("lm_head.weight", (shape.vocabulary, shape.width))
    # The layers are alike: list one, with what its architecture adds, and repeat it below.
    layer = {
        "attn_norm.weight": ("input_layernorm.weight", (shape.width,)),
        "attn_q.weight": ("self_attn.q_proj.weight", (queries, shape.width)),
        "attn_k.weight": ("self_attn.k_proj.weight", (keys, shape.width)),
        "attn_v.weight": ("self_attn.v_proj.weight", (keys, shape.width)),
        "attn_output.weight": ("self_attn.o_proj.weight", (shape.width, queries)),
        "ffn_norm.weight": ("post_attention_layernorm.weight", (shape.width,)),
        "ffn_gate.weight": ("mlp.gate_proj.weight", (shape.inner, shape.width)),
        "ffn_up.weight": ("mlp.up_proj.weight", (shape.inner, shape.width)),
        "ffn_down.weight": ("mlp.down_proj.weight", (shape.width, shape.inner)),
    }
    if shape.architecture in _BIASED:
        layer |= {
            "attn_q.bias": ("self_attn.q_proj.bias", (queries,)),
            "attn_k.bias": ("self_attn.k_proj.bias", (keys,)),
            "attn_v.bias": ("self_attn.v_proj.bias", (keys,)),
        }
    if shape.architecture == "qwen3":
        layer |= {
            "attn_q_norm.weight": ("self_attn.q_norm.weight", (shape.head_width,)),
            "attn_k_norm.weight": ("self_attn.k_norm.weight", (shape.head_width,)),
        }
    for i in range(shape.layers):
        names |= {f"blk.{i}.{n}": (f"model.layers.{i}.{to}", size) for n, (to, size) in layer.items()}
    return names


def _check_tensors(path: Path, header: GGUFHeader, shape: _Shape) -> None:
    """Each tensor that the model has is there, in its shape, and there is no other."""
    if shape.layers > len(header.tensors):  # before a name is made for each of them
        raise _misfit_error(
            path, f"it states {shape.layers:,} layers and holds {len(header.tensors):,} tensors"
        )
    expected = _expected_tensors(shape, header)
    for name, (_, size) in expected.items():
        if name not in header.tensors:
            raise _misfit_error(path, f"the tensor {name} is missing")
        if header.tensors[name].shape != size:
            actual = list(header.tensors[name].shape)
            raise _misfit_error(path, f"the tensor {name} has the shape {actual}, not {list(size)}")
    others = sorted(header.tensors.keys() - expected.keys() - {_ROPE_FACTORS})
    if others:
        raise _misfit_error(path, f"it holds {others[0][:80]!r}, unknown in {shape.architecture}")
    tokens = len(header.metadata["tokenizer.ggml.tokens"])
    if tokens > shape.vocabulary:
        raise _misfit_error(
            path, f"its tokenizer has {tokens:,} tokens, its embedding {shape.vocabulary:,} rows"
        )


def _misfit_error(path: Path, why: str) -> ModelError:
    return ModelError(
        f"{path} cannot be converted: {why}.",
        hint="Take another file of this model, or give it as a Hugging Face folder or id.",
    )


def _write_weights(path: Path, target: Path, header: GGUFHeader, shape: _Shape) -> None:
    """One safetensors file in bfloat16, tensor by tensor."""
    expected = _expected_tensors(shape, header)
    # 1. The header: every size is known beforehand.
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for to, size in expected.values():
        end = at + 2 * math.prod(size)
        entries[to] = {"dtype": "BF16", "shape": list(size), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    # 2. The data, in the same order.
    with target.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in expected:
            weights = _read_tensor(path, header.tensors[name])
            if shape.architecture == "llama" and name.endswith(("attn_q.weight", "attn_k.weight")):
                weights = _uninterleave(weights, shape.head_width)
            file.write(_to_bfloat16(weights, f"The tensor {name} of {path}"))


def _read_tensor(path: Path, info: TensorInfo) -> "np.ndarray[Any, Any]":
    """A tensor in float32."""
    import numpy as np
    from gguf import GGMLQuantizationType, dequantize

    _, numbers, width = BLOCKS[info.kind]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        raw = np.frombuffer(view[info.start : info.start + info.size], dtype=np.uint8)
    rows = raw.reshape(-1, info.shape[-1] // numbers * width)
    return dequantize(rows, GGMLQuantizationType(info.kind)).reshape(info.shape)


def _uninterleave(weights: "np.ndarray[Any, Any]", head_width: int) -> "np.ndarray[Any, Any]":
    """Rotary pairs as transformers has them: llama.cpp's llama keeps the two of a pair side by side."""
    split = weights.reshape(-1, head_width // 2, 2, weights.shape[1])
    return split.swapaxes(1, 2).reshape(weights.shape)


def _to_bfloat16(weights: "np.ndarray[Any, Any]", what: str) -> bytes:
    """Rounded to the nearest bfloat16, ties to even, as torch does."""
    import numpy as np

    if not np.isfinite(weights).all():
        raise ModelError(
            f"{what} holds values that are not finite.",
            hint="Fetch the file again, and compare its checksum.",
        )
    bits = np.ascontiguousarray(weights, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return rounded.astype("<u2").tobytes()
