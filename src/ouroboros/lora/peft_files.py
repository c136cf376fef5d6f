"""Adapters as the two files of a PEFT folder: written deterministically, read with suspicion."""

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
from ouroboros.lora.peft_config import LoraFacts
from ouroboros.lora.quantize import decode, encode
from ouroboros.lora.size import PREFIX, file_metadata, layer_entries, storage_precisions
from ouroboros.lora.targets import shortest_names, targets_of
from ouroboros.lora.tensorfile import Entry, TensorFile
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
    """What two files hold: the adapter's shape as a config, the base it names, its weights.

    `made_for` is None where another program wrote the files: only names and shapes can be checked then.
    """

    config: AdapterConfig
    base_name: str
    made_for: Fingerprint | None
    weights: LoraWeights


def pack(
    weights: LoraWeights,
    config: AdapterConfig,
    base: BaseModel,
    precision: Precision | None = None,
    limit: int = MAX_BYTES,
) -> AdapterFiles:
    """The files of an adapter on `base`; equal weights give equal bytes.

    Stored in `precision`, by default the best that `config` allows within `limit` bytes. Raises
    `TooLarge` if none fits, `InvalidAdapter` if a number is not finite or a layer is not the base's, and
    as `invocation` does.
    """
    shapes = _shapes(weights, base)
    metadata = file_metadata(base.fingerprint)
    size = 0
    for chosen in (precision,) if precision else storage_precisions(config):
        layers = [layer_entries(s, weights[s.path].rank, chosen) for s in shapes]
        entries = {name: entry for layer in layers for name, entry in layer.items()}
        size = tensorfile.file_size(entries, metadata)
        if size <= limit:
            facts = _facts(weights, config, base, chosen)
            return AdapterFiles(
                peft_config.write(facts, base), _file(weights, chosen, entries, metadata)
            )
    raise TooLarge(
        f"The adapter takes {size:,} bytes; the limit is {limit:,}.",
        hint="Lower its rank, adapt fewer modules, or store it as int8 or int4.",
    )


def unpack(files: AdapterFiles, base: BaseModel | None = None) -> UnpackedAdapter:
    """Check `files` through and through and read them, as float32.

    With a `base`, the adapter must have been made for it (`BaseMismatch`) and fit its layers. Raises
    `InvalidAdapter` for damage, unsupported features and numbers that are not finite, `TooLarge` over
    10 MiB.
    """
    if len(files.weights) > MAX_BYTES:
        raise TooLarge(
            f"The weight file has {len(files.weights):,} bytes; the limit is {MAX_BYTES:,} (10 MiB).",
            hint="Export it with a lower rank.",
        )
    facts = peft_config.read(files.config)
    file = tensorfile.read(files.weights)
    made_for = _made_for(file.metadata)
    if base is not None and made_for is not None:
        base.fingerprint.require_equal(made_for, "This adapter")
    weights = {}
    for path, parts in sorted(_layers(file).items()):
        _check_layer(path, parts, facts)
        tensors = {part: _tensor(file, _name(path, part)) for part in parts}
        weights[path] = decode(tensors, facts.scale_of(path))
    if base is not None:
        _shapes(weights, base)
        _check_invocation(facts, base)
    return UnpackedAdapter(_config(facts, weights, base), facts.base_name, made_for, weights)


def rounding(files: AdapterFiles) -> torch.dtype | None:
    """The type that files of our own have rounded their weights to, if they did nothing else to them."""
    types = {e.dtype for e in tensorfile.read(files.weights).entries.values()}
    plain = len(types) == 1 and types <= {"F32", "BF16"} and not peft_config.read(files.config).alphas
    return _DTYPES[types.pop()] if plain else None


def invocation(config: AdapterConfig, base: BaseModel) -> tuple[int, ...]:
    """The tokens from which an adapter of this config acts on, as PEFT's activated LoRA has them.

    They are what the base's prompts end with; none for one that acts on all tokens. Raises
    `InvalidConfig` where prompts have no common end.
    """
    if config.acts_on == ALL:
        return ()
    if not base.invocation_tokens:
        raise InvalidConfig(
            f"Prompts of {base.name} have no common end that would tell where an answer starts.",
            hint=f'Use acts_on "{ALL}", or give its tokenizer a chat template.',
        )
    return base.invocation_tokens


def _check_invocation(facts: LoraFacts, base: BaseModel) -> None:
    if facts.invocation and facts.invocation != base.invocation_tokens:
        raise InvalidAdapter(
            f"Its alora_invocation_tokens are {list(facts.invocation)[:20]}; "
            f"an answer of {base.name} opens with {list(base.invocation_tokens)}.",
            hint="Train it with the ids of the chat template's generation prompt.",
        )


def _shapes(weights: LoraWeights, base: BaseModel) -> list[LinearShape]:
    """The layers of `base` that the weights adapt; raises unless each exists and is sound."""
    known = {shape.path: shape for shape in base.linears}
    if not weights:
        raise InvalidAdapter("The adapter adapts no layer.", hint=_PLAIN)
    for path, low in weights.items():
        shape, widths = known.get(path), (low.a.shape[1], low.b.shape[0])
        if shape is None:
            raise InvalidAdapter(
                f"The adapter is for {path[:99]}, which {base.name} does not have.",
                hint=_OTHER_BASE,
            )
        if (shape.inputs, shape.outputs) != widths:
            raise InvalidAdapter(
                f"The adapter's {path} takes {widths[0]} numbers to {widths[1]}; "
                f"in {base.name} it takes {shape.inputs} to {shape.outputs}.",
                hint=_OTHER_BASE,
            )
    _check_finite(weights)
    return [known[path] for path in sorted(weights)]


def _check_finite(weights: LoraWeights) -> None:
    """By sums: where one is finite all its numbers are, and it takes no memory. A sum may overflow."""
    for path, low in weights.items():
        for factor in (low.a, low.b):
            if not math.isfinite(factor.sum()) and not factor.isfinite().all():
                raise InvalidAdapter(f"The weights of {path} hold NaN or infinity.", hint=_RETRAIN)


_OTHER_BASE = "It was made for another model; load that one."
_RETRAIN = "Train it again, at a lower rate."
_PLAIN = "Export a plain LoRA adapter of linear layers, with PEFT's save_pretrained."


def _name(path: str, part: str) -> str:
    return f"{PREFIX}{path}.{part}"


# Writing


def _facts(
    weights: LoraWeights, config: AdapterConfig, base: BaseModel, precision: Precision
) -> LoraFacts:
    """The config of these weights; layers whose rank or scale differs from the config's are listed."""
    facts = LoraFacts(
        rank=config.rank,
        alpha=config.alpha,
        use_rslora=config.use_rslora,
        base_name=base.name,
        target_modules=shortest_names(base, weights),
        ranks={p: w.rank for p, w in weights.items() if w.rank != config.rank},
        alphas={},
        quantized=precision if precision in (Precision.INT8, Precision.INT4) else None,
        invocation=invocation(config, base),
    )
    power = 0.5 if config.use_rslora else 1.0
    differ = {p: w.scale * w.rank**power for p, w in weights.items() if w.scale != facts.scale_of(p)}
    return replace(facts, alphas=differ)


def _file(
    weights: LoraWeights,
    precision: Precision,
    entries: Mapping[str, Entry],
    metadata: Mapping[str, str],
) -> bytes:
    tensors = {
        _name(path, part): tensor
        for path, low in weights.items()
        for part, tensor in encode(low, precision).items()
    }
    data = (_bytes(tensors[name], entries[name]) for name in tensorfile.layout(entries))
    return b"".join((tensorfile.write_header(entries, metadata), *data))


def _bytes(tensor: Tensor, entry: Entry) -> bytes:
    flat = tensor.detach().to("cpu", _DTYPES[entry.dtype]).contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()


# Reading


def _made_for(metadata: Mapping[str, str]) -> Fingerprint | None:
    """The base's fingerprint, which files of our own carry."""
    found = {k.removeprefix("base."): v for k, v in metadata.items() if k.startswith("base.")}
    if not found:
        return None
    names = {"config", "tokenizer", "template", "weights", "vocabulary"}
    if found.keys() != names or not re.fullmatch(r"[0-9]{1,12}", found["vocabulary"]):
        raise InvalidAdapter("The weight file's record of its base is damaged.", hint=_PLAIN)
    return Fingerprint(vocabulary=int(found.pop("vocabulary")), **found)


def _layers(file: TensorFile) -> dict[str, dict[str, Entry]]:
    """The file's tensors by layer and part."""
    layers: dict[str, dict[str, Entry]] = {}
    for name, entry in file.entries.items():
        key = _KEY.fullmatch(name)
        if key is None:
            raise InvalidAdapter(
                f"The weight file holds {name[:200]!r}, not a low-rank factor of a linear layer.",
                hint=_PLAIN,
            )
        layers.setdefault(key["path"], {})[key["part"]] = entry
    return layers


def _check_layer(path: str, parts: Mapping[str, Entry], facts: LoraFacts) -> None:
    """A layer's tensors must be exactly those that its rank and precision ask for."""
    precision = facts.quantized or Precision.FLOAT32
    kind = "weight" if facts.quantized is None else precision.value
    a, b = parts.get(f"lora_A.{kind}"), parts.get(f"lora_B.{kind}")
    if a is None or b is None or len(a.shape) != 2 or len(b.shape) != 2:
        raise InvalidAdapter(f"{path[:200]} lacks a factor, or one is not a matrix.", hint=_PLAIN)
    wide = 2 if precision is Precision.INT4 else 1
    outputs = b.shape[0] if facts.quantized is None else b.shape[1] * wide
    shape = LinearShape(path, a.shape[1] * wide, outputs)
    expected = layer_entries(shape, facts.rank_of(path), precision)
    if expected != {_name(path, part): _as_float(e, precision) for part, e in parts.items()}:
        raise InvalidAdapter(
            f"The tensors of {path[:200]} do not make an update of rank {facts.rank_of(path)}.",
            hint="Its adapter_config.json and weight file do not belong together.",
        )


def _as_float(entry: Entry, precision: Precision) -> Entry:
    """Factors in any of the float types count as float32 ones."""
    plain = precision is Precision.FLOAT32 and entry.dtype in _FLOATS
    return Entry("F32", entry.shape) if plain else entry


def _tensor(file: TensorFile, name: str) -> Tensor:
    entry = file.entries[name]
    return torch.frombuffer(bytearray(file.data[name]), dtype=_DTYPES[entry.dtype]).view(entry.shape)


def _config(facts: LoraFacts, weights: LoraWeights, base: BaseModel | None) -> AdapterConfig:
    """The adapter's shape; its targets are the layers that the file really adapts."""
    targets = facts.target_modules if base is None else targets_of(base, weights)
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
