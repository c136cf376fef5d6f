"""Adapters as the two files of a PEFT folder: deterministic writing, strict reading."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ouroboros.domain.base_model import BaseModel, Fingerprint, LinearShape
from ouroboros.domain.config import ALL, ANSWER, AdapterConfig
from ouroboros.domain.errors import InvalidAdapter, InvalidConfig, TooLarge
from ouroboros.domain.weights import MAX_BYTES, AdapterFiles, Precision
from ouroboros.lora import peft_config, tensorfile
from ouroboros.lora.peft_config import PeftLoraConfig
from ouroboros.lora.quantize import decode, encode
from ouroboros.lora.size import (
    PREFIX,
    file_metadata,
    largest_rank,
    layer_tensor_specs,
    storage_precisions,
)
from ouroboros.lora.targets import shortest_names, target_modules_for
from ouroboros.lora.tensorfile import TensorFile, TensorSpec
from ouroboros.lora.weights import LoraWeights

_DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "U8": torch.uint8,
}
_FLOATS = ("F32", "F16", "BF16")
_KEY = re.compile(
    re.escape(PREFIX) + r"(?P<path>\w+(?:\.\w+)*)\.(?P<part>lora_[AB]\.(?:weight|int8|int4|scale))",
    re.ASCII,
)


@dataclass(frozen=True)
class UnpackedAdapter:
    """The content of two files: the adapter's config, the name of its base, and its weights.

    `base_fingerprint` is None if another program wrote the files. Then only names and shapes can be
    checked.
    """

    config: AdapterConfig
    base_name: str
    base_fingerprint: Fingerprint | None
    weights: LoraWeights


def pack(
    weights: LoraWeights,
    config: AdapterConfig,
    base: BaseModel,
    precision: Precision | None = None,
    limit: int = MAX_BYTES,
) -> AdapterFiles:
    """Encode an adapter on `base` as files. Equal weights give equal bytes.

    Stored in `precision`, by default the best that `config` allows within `limit` bytes. Raises
    `TooLarge` if none fits, `InvalidAdapter` if a value is not finite or a layer is not the base's, and
    as `invocation_tokens` does.
    """
    shapes = _check_layers(weights, base)
    metadata = file_metadata(base.fingerprint)
    size = 0
    for candidate in (precision,) if precision else storage_precisions(config):
        layers = [layer_tensor_specs(s, weights[s.path].rank, candidate) for s in shapes]
        entries = {name: entry for layer in layers for name, entry in layer.items()}
        size = tensorfile.file_size(entries, metadata)
        if size <= limit:
            facts = _to_peft_config(weights, config, base, candidate)
            return AdapterFiles(
                peft_config.write_peft_config(facts, base),
                _encode_weights(weights, candidate, entries, metadata),
            )
    raise TooLarge(
        f"The adapter takes {size:,} bytes; the limit is {limit:,}.",
        hint="Lower its rank, adapt fewer modules, or store it as int8 or int4.",
    )


def unpack(
    files: AdapterFiles, base: BaseModel | None = None, limit: int = MAX_BYTES
) -> UnpackedAdapter:
    """Validate `files` and read them, as float32.

    With a `base`, the adapter must belong to it (else `BaseMismatch`) and fit its layers. Raises
    `InvalidAdapter` for damage, unsupported features and values that are not finite, and `TooLarge` over
    `limit` bytes, 10 MiB, with the largest rank that fits.
    """
    facts, file, made_for = _read_structure(files, base, limit)
    weights = {}
    for path, parts in sorted(_group_by_layer(file).items()):
        tensors = {part: _read_tensor(file, _tensor_name(path, part)) for part in parts}
        weights[path] = decode(tensors, facts.scale_of(path))
    if base is not None:
        _check_layers(weights, base)
        _check_invocation(facts, base)
    return UnpackedAdapter(_to_adapter_config(facts, weights, base), facts.base_name, made_for, weights)


def check_structure(files: AdapterFiles, base: BaseModel) -> None:
    """Raise as `unpack` does for all that can be seen without a tensor. Hostile files fail here."""
    _read_structure(files, base, MAX_BYTES)


def _read_structure(
    files: AdapterFiles, base: BaseModel | None, limit: int
) -> tuple[PeftLoraConfig, TensorFile, Fingerprint | None]:
    """Read the config and the weight file's header, and check that they belong together."""
    _check_program(files)
    facts = peft_config.read_peft_config(files.config)
    if len(files.weights) > limit:
        raise _explain_size(files, base)
    file = tensorfile.read_tensor_file(files.weights)
    made_for = _read_fingerprint(file.metadata)
    if base is not None and made_for is not None:
        base.fingerprint.require_equal(made_for, "This adapter")
    for path, parts in sorted(_group_by_layer(file).items()):
        _check_layer_tensors(path, parts, facts)
    return facts, file, made_for


def _check_program(files: AdapterFiles) -> None:
    """Refuse the files of programs whose adapters look like PEFT's and are others, by name."""
    if files.weights[:4] == b"GGUF":
        raise InvalidAdapter(
            "The weights are a GGUF file, of llama.cpp or Ollama.",
            hint="Import the PEFT folder from which it was converted.",
        )
    if b'"lora_parameters"' in files.config[: 1 << 20] and b'"peft_type"' not in files.config[: 1 << 20]:
        raise InvalidAdapter(
            "The adapter was saved by MLX, whose matrices are transposed and have other names.",
            hint="Convert it to PEFT's format, or merge it with mlx_lm.fuse and give that as --model.",
        )


def _explain_size(files: AdapterFiles, base: BaseModel | None) -> TooLarge:
    """Say how large the weights are, and which rank would fit on the layers that they adapt."""
    message = f"The weight file has {len(files.weights):,} bytes; the limit is {MAX_BYTES:,} (10 MiB)."
    known = {shape.path: shape for shape in base.linears} if base is not None else {}
    try:
        paths = _group_by_layer(tensorfile.read_tensor_file(files.weights))
    except InvalidAdapter:  # nothing fits of what is no adapter
        paths = {}
    shapes = [known[path] for path in paths if path in known]
    rank = largest_rank(base, shapes, Precision.BFLOAT16) if base is not None and shapes else 0
    if not rank:
        return TooLarge(message, hint="Adapt fewer layers of the model.")
    return TooLarge(
        f"{message} On its {len(shapes)} layers, rank {rank} fits.",
        hint=f"Cut it to the rank that fits: ouroboros import --shrink. Or train it at rank {rank}.",
    )


def storage_rounding(files: AdapterFiles) -> torch.dtype | None:
    """The dtype to which the files rounded the weights; None if they quantised or rescaled them."""
    types = {e.dtype for e in tensorfile.read_tensor_file(files.weights).specs.values()}
    plain = (
        len(types) == 1
        and types <= {"F32", "BF16"}
        and not peft_config.read_peft_config(files.config).alphas
    )
    return _DTYPES[types.pop()] if plain else None


def invocation_tokens(config: AdapterConfig, base: BaseModel) -> tuple[int, ...]:
    """Return the tokens from which an adapter of this config acts, as in PEFT's activated LoRA.

    They are the common end of the base's prompts; empty for an adapter that acts on all tokens. Raises
    `InvalidConfig` if prompts have no common end.
    """
    if config.acts_on == ALL:
        return ()
    if not base.invocation_tokens:
        raise InvalidConfig(
            f"Prompts of {base.name} have no common end that marks the start of an answer.",
            hint=f'Use acts_on "{ALL}", or give its tokenizer a chat template.',
        )
    return base.invocation_tokens


def _check_invocation(facts: PeftLoraConfig, base: BaseModel) -> None:
    if facts.invocation and facts.invocation != base.invocation_tokens:
        raise InvalidAdapter(
            f"Its alora_invocation_tokens are {list(facts.invocation)[:20]}; "
            f"an answer of {base.name} opens with {list(base.invocation_tokens)}.",
            hint="Train it with the ids of the chat template's generation prompt.",
        )


def _check_layers(weights: LoraWeights, base: BaseModel) -> list[LinearShape]:
    """Return the layers of `base` that the weights adapt. Raises `InvalidAdapter` unless each one
    exists, has the same widths and holds finite values."""
    known = {shape.path: shape for shape in base.linears}
    if not weights:
        raise InvalidAdapter("The adapter adapts no layer.", hint=_EXPORT_HINT)
    for path, low in weights.items():
        shape, widths = known.get(path), (low.a.shape[1], low.b.shape[0])
        if shape is None and path.rpartition(".")[2] in _HEADS:
            raise InvalidAdapter(
                f"The adapter adapts {path[:99]}, the model's head, which is not adapted here.",
                hint="Train it without the head in target_modules.",
            )
        if shape is None:
            raise InvalidAdapter(
                f"The adapter is for {path[:99]}, which {base.name} does not have.",
                hint=_OTHER_BASE_HINT,
            )
        if (shape.inputs, shape.outputs) != widths:
            raise InvalidAdapter(
                f"The adapter's {path} takes {widths[0]} numbers to {widths[1]}; "
                f"in {base.name} it takes {shape.inputs} to {shape.outputs}.",
                hint=_OTHER_BASE_HINT,
            )
    _check_finite(weights)
    return [known[path] for path in sorted(weights)]


def _check_finite(weights: LoraWeights) -> None:
    """Check sums first: a finite sum means that all values are finite, and needs no memory. A sum of
    finite values can overflow, so then every value is checked."""
    for path, low in weights.items():
        for factor in (low.a, low.b):
            if not math.isfinite(factor.sum()) and not factor.isfinite().all():
                raise InvalidAdapter(f"The weights of {path} hold NaN or infinity.", hint=_RETRAIN_HINT)


_HEADS = ("lm_head", "embed_out", "output_layer")
"""Names of the layer that gives the logits."""

_MAX_PATH = 512
"""Longest path of a layer, in characters."""

_OTHER_BASE_HINT = "It was made for another model; load that one."
_RETRAIN_HINT = "Train it again, at a lower rate."
_EXPORT_HINT = "Export a plain LoRA adapter of linear layers, with PEFT's save_pretrained."


def _tensor_name(path: str, part: str) -> str:
    return f"{PREFIX}{path}.{part}"


# Writing


def _to_peft_config(
    weights: LoraWeights, config: AdapterConfig, base: BaseModel, precision: Precision
) -> PeftLoraConfig:
    """Describe the weights; layers whose rank or scale differs from the config's are listed."""
    facts = PeftLoraConfig(
        rank=config.rank,
        alpha=config.alpha,
        use_rslora=config.use_rslora,
        base_name=base.name,
        target_modules=shortest_names(base, weights),
        ranks={p: w.rank for p, w in weights.items() if w.rank != config.rank},
        alphas={},
        quantized=precision if precision in (Precision.INT8, Precision.INT4) else None,
        invocation=invocation_tokens(config, base),
    )
    power = 0.5 if config.use_rslora else 1.0
    differing_alphas = {
        p: w.scale * w.rank**power for p, w in weights.items() if w.scale != facts.scale_of(p)
    }
    return replace(facts, alphas=differing_alphas)


def _encode_weights(
    weights: LoraWeights,
    precision: Precision,
    entries: Mapping[str, TensorSpec],
    metadata: Mapping[str, str],
) -> bytes:
    tensors = {
        _tensor_name(path, part): tensor
        for path, low in weights.items()
        for part, tensor in encode(low, precision).items()
    }
    data = (_tensor_bytes(tensors[name], entries[name]) for name in tensorfile.storage_order(entries))
    return b"".join((tensorfile.write_header(entries, metadata), *data))


def _tensor_bytes(tensor: Tensor, entry: TensorSpec) -> bytes:
    flat = tensor.detach().to("cpu", _DTYPES[entry.dtype]).contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()


# Reading


def _read_fingerprint(metadata: Mapping[str, str]) -> Fingerprint | None:
    """Return the base's fingerprint; None in the files of other programs."""
    fields = {k.removeprefix("base."): v for k, v in metadata.items() if k.startswith("base.")}
    if not fields:
        return None
    names = {"config", "tokenizer", "template", "weights", "vocabulary"}
    if fields.keys() != names or not re.fullmatch(r"[0-9]{1,12}", fields["vocabulary"]):
        raise InvalidAdapter("The weight file's record of its base is damaged.", hint=_EXPORT_HINT)
    return Fingerprint(vocabulary=int(fields.pop("vocabulary")), **fields)


def _group_by_layer(file: TensorFile) -> dict[str, dict[str, TensorSpec]]:
    """Group the file's tensors by layer and part."""
    layers: dict[str, dict[str, TensorSpec]] = {}
    for name, entry in file.specs.items():
        key = _KEY.fullmatch(name)
        if key is None or len(name) > _MAX_PATH:
            raise InvalidAdapter(
                f"The weight file holds {name[:200]!r}, not a low-rank factor of a linear layer.",
                hint=_EXPORT_HINT,
            )
        layers.setdefault(key["path"], {})[key["part"]] = entry
    return layers


def _check_layer_tensors(path: str, parts: Mapping[str, TensorSpec], facts: PeftLoraConfig) -> None:
    """Check that a layer's tensors are exactly those of its rank and precision."""
    precision = facts.quantized or Precision.FLOAT32
    kind = "weight" if facts.quantized is None else precision.value
    a, b = parts.get(f"lora_A.{kind}"), parts.get(f"lora_B.{kind}")
    if a is None or b is None or len(a.shape) != 2 or len(b.shape) != 2:
        raise InvalidAdapter(f"{path[:200]} lacks a factor, or one is not a matrix.", hint=_EXPORT_HINT)
    wide = 2 if precision is Precision.INT4 else 1
    outputs = b.shape[0] if facts.quantized is None else b.shape[1] * wide
    shape = LinearShape(path, a.shape[1] * wide, outputs)
    expected = layer_tensor_specs(shape, facts.rank_of(path), precision)
    if expected != {_tensor_name(path, part): _as_float(e, precision) for part, e in parts.items()}:
        raise InvalidAdapter(
            f"The tensors of {path[:200]} do not make an update of rank {facts.rank_of(path)}.",
            hint="Its adapter_config.json and weight file do not belong together.",
        )


def _as_float(entry: TensorSpec, precision: Precision) -> TensorSpec:
    """Treat factors of any float dtype as float32."""
    plain = precision is Precision.FLOAT32 and entry.dtype in _FLOATS
    return TensorSpec("F32", entry.shape) if plain else entry


def _read_tensor(file: TensorFile, name: str) -> Tensor:
    entry = file.specs[name]
    return torch.frombuffer(bytearray(file.data[name]), dtype=_DTYPES[entry.dtype]).view(entry.shape)


def _to_adapter_config(
    facts: PeftLoraConfig, weights: LoraWeights, base: BaseModel | None
) -> AdapterConfig:
    """Return the adapter's config; its targets are the layers in the weight file."""
    targets = facts.target_modules if base is None else target_modules_for(base, weights)
    config = AdapterConfig(
        rank=facts.rank,
        alpha=facts.alpha,
        use_rslora=facts.use_rslora,
        target_modules=targets or tuple(weights),
        precision=facts.quantized.value if facts.quantized else "auto",
        acts_on=ANSWER if facts.invocation else ALL,
    )
    config.check()
    return config
