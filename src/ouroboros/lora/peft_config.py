"""`adapter_config.json`: PEFT's description of an adapter, written exactly and read strictly.

What is not understood is refused by name, unless it is switched off: an adapter that needs DoRA, extra
modules or a bias would otherwise load and quietly do something else.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import MAX_RANK
from ouroboros.domain.errors import InvalidAdapter
from ouroboros.domain.weights import Precision
from ouroboros.lora.tensorfile import parse_object

_PEFT_TYPES = {
    "LORA": None,
    "OUROBOROS_INT8": Precision.INT8,
    "OUROBOROS_INT4": Precision.INT4,
}
"""Integer weights carry a type of ours: other programs refuse them instead of misreading them."""

_READ = frozenset(
    "peft_type task_type base_model_name_or_path r lora_alpha use_rslora bias target_modules "
    "rank_pattern alpha_pattern init_lora_weights alora_invocation_tokens".split()
)
_NO_EFFECT = frozenset(
    "peft_version inference_mode lora_dropout fan_in_fan_out revision megatron_core qalora_group_size "
    "layers_to_transform layers_pattern exclude_modules runtime_config auto_mapping".split()
)
"""What matters only while PEFT trains or builds its modules; the weight file says which these are."""

_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Initialisations that leave the base as it is; PiSSA, OLoRA, LoftQ and CorDA write to it."""

_TRANSPOSED = frozenset({"gpt2", "openai-gpt"})
"""Architectures that store their layers' weights as [in, out]."""

_MODEL_MODULE = re.compile(r"transformers\.models(\.[a-z0-9_]+)+")
_PATTERN = re.compile(r"\^?[A-Za-z0-9_]+(\\?\.[A-Za-z0-9_]+)*\$?")


@dataclass(frozen=True, slots=True)
class LoraFacts:
    """What an adapter's config says: rank and alpha, and the layers whose own differ from these.

    An activated LoRA acts from the last place on where its tokens `invocation` stand; others everywhere.
    """

    rank: int
    alpha: float
    use_rslora: bool
    base_name: str
    target_modules: tuple[str, ...]
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    quantized: Precision | None = None
    invocation: tuple[int, ...] = ()

    def rank_of(self, path: str) -> int:
        return _lookup(self.ranks, path, self.rank)

    def scale_of(self, path: str) -> float:
        """What BA of one layer is multiplied by."""
        alpha, rank = _lookup(self.alphas, path, self.alpha), self.rank_of(path)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def write(facts: LoraFacts, base: BaseModel) -> bytes:
    """The file's bytes; equal facts give equal bytes."""
    kind = next(k for k, precision in _PEFT_TYPES.items() if precision is facts.quantized)
    document = {
        "alpha_pattern": dict(sorted(facts.alphas.items())),
        "base_model_name_or_path": facts.base_name,
        "bias": "none",
        "fan_in_fan_out": base.architecture in _TRANSPOSED,
        "inference_mode": True,
        "lora_alpha": _number(facts.alpha),
        "lora_dropout": 0.0,
        "peft_type": kind,
        "r": facts.rank,
        "rank_pattern": dict(sorted(facts.ranks.items())),
        "target_modules": list(facts.target_modules),
        "task_type": "CAUSAL_LM",
        "use_rslora": facts.use_rslora,
    }
    if facts.invocation:
        document = {"alora_invocation_tokens": list(facts.invocation), **document}
    return (json.dumps(document, indent=2) + "\n").encode()


def read(raw: bytes) -> LoraFacts:
    """The facts in an `adapter_config.json`; raises `InvalidAdapter` naming what is not supported."""
    if len(raw) > 1 << 20:
        raise InvalidAdapter("adapter_config.json is larger than 1 MiB.", hint="It is not an adapter's.")
    found = parse_object(raw, "adapter_config.json")
    _check_kind(found)
    return LoraFacts(
        rank=_rank("r", found.get("r")),
        alpha=_alpha("lora_alpha", found.get("lora_alpha")),
        use_rslora=_flag("use_rslora", found.get("use_rslora", False)),
        base_name=_text(found.get("base_model_name_or_path")),
        target_modules=_targets(found.get("target_modules")),
        ranks={k: _rank(f"rank_pattern of {k}", v) for k, v in _patterns(found, "rank_pattern")},
        alphas={k: _alpha(f"alpha_pattern of {k}", v) for k, v in _patterns(found, "alpha_pattern")},
        quantized=_PEFT_TYPES[found["peft_type"]],
        invocation=_token_ids(found.get("alora_invocation_tokens")),
    )


def _check_kind(found: Mapping[str, Any]) -> None:
    """Refuse other methods than plain LoRA, and every option that would change what its weights mean."""
    if found.get("peft_type") not in tuple(_PEFT_TYPES):
        raise _unsupported("peft_type", found.get("peft_type"), "Only LORA is.")
    if found.get("task_type") not in ("CAUSAL_LM", None):
        raise _unsupported("task_type", found["task_type"], "Only CAUSAL_LM is.")
    if found.get("bias", "none") != "none":
        raise _unsupported("bias", found["bias"], "Train it with bias none.")
    start = found.get("init_lora_weights")
    if not any(start is plain or (isinstance(start, str) and start == plain) for plain in _PLAIN_STARTS):
        raise _unsupported("init_lora_weights", start, "It changed the base; convert it first.")
    _check_mapping(found.get("auto_mapping"))
    for key in found.keys() - _READ - _NO_EFFECT:
        value = found[key]
        if value is not None and value is not False and value not in ({}, [], ""):
            raise _unsupported(key, value, "Train or export it without.")


def _check_mapping(value: object) -> None:
    """The file is kept as it is, and PEFT imports the module that this names: only a model's may be."""
    if value is None:
        return
    module = value.get("parent_library") if isinstance(value, dict) else None
    if not isinstance(module, str) or not _MODEL_MODULE.fullmatch(module):
        raise _unsupported("auto_mapping", value, "It names code to import; export it without.")


def _unsupported(key: str, value: object, hint: str) -> InvalidAdapter:
    return InvalidAdapter(
        f"adapter_config.json has {key[:60]} = {str(value)[:60]!r}, which is not supported.", hint=hint
    )


def _rank(key: str, value: object) -> int:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise _unsupported(key, value, f"A rank is a whole number from 1 to {MAX_RANK}.")
    return value


def _alpha(key: str, value: object) -> float:
    if type(value) not in (int, float) or not 0 < value <= 1e6:  # type: ignore[operator]
        raise _unsupported(key, value, "An alpha is a positive number up to a million.")
    return float(value)  # type: ignore[arg-type]


def _flag(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _unsupported(key, value, "Give true or false.")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > 4096:
        raise _unsupported("base_model_name_or_path", value, "Name the base model.")
    return value


def _targets(value: object) -> tuple[str, ...]:
    """A list of names as it is; a pattern in one string is not run, the weight file names the layers."""
    if isinstance(value, str):
        return ()
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v for v in value):
        raise _unsupported("target_modules", value, "List the adapted modules' names.")
    return tuple(sorted(value))


def _token_ids(value: object) -> tuple[int, ...]:
    """Where an activated LoRA starts to act; nothing for any other."""
    if value is None:
        return ()
    if not isinstance(value, list) or not value or not all(type(v) is int and v >= 0 for v in value):
        raise _unsupported("alora_invocation_tokens", value, "List the ids of some tokens.")
    return tuple(value)


def _patterns(found: Mapping[str, Any], key: str) -> list[tuple[str, object]]:
    """The entries of rank_pattern or alpha_pattern, without the anchors and escapes of PEFT's patterns.

    Only plain module names are understood; a real regular expression from a stranger is not run.
    """
    table = found.get(key) or {}
    if not isinstance(table, dict):
        raise _unsupported(key, table, "Give a table from module names to numbers.")
    for pattern in table:
        if not _PATTERN.fullmatch(pattern):
            raise _unsupported(key, pattern, "Only plain module names are; write them out.")
    return [(p.strip("^$").replace("\\", ""), value) for p, value in table.items()]


def _lookup(table: Mapping[str, Any], path: str, default: Any) -> Any:
    """The first entry whose name is the path or ends it, as PEFT looks it up."""
    return next((v for name, v in table.items() if path == name or path.endswith(f".{name}")), default)


def _number(value: float) -> int | float:
    """16 rather than 16.0: some readers want an integer alpha."""
    return int(value) if float(value).is_integer() else value
