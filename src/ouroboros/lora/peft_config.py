"""`adapter_config.json`, PEFT's description of an adapter: deterministic writing, strict reading.

Unsupported options are refused by name unless they are switched off. Otherwise an adapter with DoRA,
extra modules or a bias would load and silently compute something else.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import MAX_RANK
from ouroboros.domain.errors import InvalidAdapter
from ouroboros.domain.weights import Precision
from ouroboros.lora.name_patterns import PatternTable
from ouroboros.lora.tensorfile import parse_json_object

_PEFT_TYPES = {
    "LORA": None,
    "OUROBOROS_INT8": Precision.INT8,
    "OUROBOROS_INT4": Precision.INT4,
}
"""Integer weights have a type of their own, so that other programs refuse them instead of misreading
them."""

_READ_KEYS = frozenset(
    "peft_type task_type base_model_name_or_path r lora_alpha use_rslora bias target_modules "
    "rank_pattern alpha_pattern init_lora_weights alora_invocation_tokens".split()
)
_IGNORED_KEYS = frozenset(
    "peft_version inference_mode lora_dropout fan_in_fan_out revision megatron_core qalora_group_size "
    "layers_to_transform layers_pattern exclude_modules runtime_config auto_mapping eva_config".split()
)
"""Keys that matter only while PEFT trains or builds its modules; the weight file names the modules."""

_PLAIN_INITS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Initialisations that do not change the base; PiSSA, OLoRA, LoftQ and CorDA do."""

_TRANSPOSED = frozenset({"gpt2", "openai-gpt"})
"""Architectures that store the weights of their layers as [in, out]."""

_MODEL_MODULE = re.compile(r"transformers\.models(\.[a-z0-9_]+)+")


@dataclass(frozen=True, slots=True)
class PeftLoraConfig:
    """The content of an adapter's config: rank and alpha, and the layers that differ from them.

    An activated LoRA acts from the last occurrence of its tokens `invocation` on, others on all tokens.
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
    _rank_table: PatternTable[int] = field(init=False, repr=False, compare=False)
    _alpha_table: PatternTable[float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rank_table", PatternTable("rank_pattern", self.ranks))
        object.__setattr__(self, "_alpha_table", PatternTable("alpha_pattern", self.alphas))

    def rank_of(self, path: str) -> int:
        """Return the rank at one layer."""
        return self._rank_table.find(path, self.rank)

    def scale_of(self, path: str) -> float:
        """The factor of one layer's product B A."""
        alpha, rank = self._alpha_table.find(path, self.alpha), self.rank_of(path)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def write_peft_config(facts: PeftLoraConfig, base: BaseModel) -> bytes:
    """Encode the config as the file's bytes. Equal configs give equal bytes."""
    peft_type = next(k for k, precision in _PEFT_TYPES.items() if precision is facts.quantized)
    document = {
        "alpha_pattern": dict(sorted(facts.alphas.items())),
        "base_model_name_or_path": facts.base_name,
        "bias": "none",
        "fan_in_fan_out": base.architecture in _TRANSPOSED,
        "inference_mode": True,
        "lora_alpha": _integer_if_whole(facts.alpha),
        "lora_dropout": 0.0,
        "peft_type": peft_type,
        "r": facts.rank,
        "rank_pattern": dict(sorted(facts.ranks.items())),
        "target_modules": list(facts.target_modules),
        "task_type": "CAUSAL_LM",
        "use_rslora": facts.use_rslora,
    }
    if facts.invocation:
        document = {"alora_invocation_tokens": list(facts.invocation), **document}
    return (json.dumps(document, indent=2) + "\n").encode()


def read_peft_config(raw: bytes) -> PeftLoraConfig:
    """Read an `adapter_config.json`.

    Raises `InvalidAdapter`, naming the option that is not supported.
    """
    if len(raw) > 1 << 20:
        raise InvalidAdapter(
            "adapter_config.json is larger than 1 MiB.", hint="Check that it is an adapter's config."
        )
    document = parse_json_object(raw, "adapter_config.json")
    _check_supported(document)
    return PeftLoraConfig(
        rank=_parse_rank("r", document.get("r")),
        alpha=_parse_alpha("lora_alpha", document.get("lora_alpha")),
        use_rslora=_parse_flag("use_rslora", document.get("use_rslora", False)),
        base_name=_parse_base_name(document.get("base_model_name_or_path")),
        target_modules=_parse_target_modules(document.get("target_modules")),
        ranks={
            k: _parse_rank(f"rank_pattern of {k}", v)
            for k, v in _parse_patterns(document, "rank_pattern")
        },
        alphas={
            k: _parse_alpha(f"alpha_pattern of {k}", v)
            for k, v in _parse_patterns(document, "alpha_pattern")
        },
        quantized=_PEFT_TYPES[document["peft_type"]],
        invocation=_parse_token_ids(document.get("alora_invocation_tokens")),
    )


def _check_supported(document: Mapping[str, Any]) -> None:
    """Refuse methods other than plain LoRA, and every option that changes the meaning of the weights."""
    if document.get("peft_type") not in tuple(_PEFT_TYPES):
        raise _unsupported_error("peft_type", document.get("peft_type"), "Only LORA is.")
    if document.get("task_type") not in ("CAUSAL_LM", None):
        raise _unsupported_error("task_type", document["task_type"], "Only CAUSAL_LM is.")
    if document.get("bias", "none") != "none":
        raise _unsupported_error("bias", document["bias"], "Train it with bias none.")
    init = document.get("init_lora_weights")
    if not any(init is plain or (isinstance(init, str) and init == plain) for plain in _PLAIN_INITS):
        raise _unsupported_error("init_lora_weights", init, "It changed the base; convert it first.")
    _check_mapping(document.get("auto_mapping"))
    for key in document.keys() - _READ_KEYS - _IGNORED_KEYS:
        value = document[key]
        if value is not None and value is not False and value not in ({}, [], ""):
            raise _unsupported_error(key, value, "Train or export it without.")


def _check_mapping(value: object) -> None:
    """Refuse any module except a model of transformers: the file is stored unchanged, and PEFT imports
    it.
    """
    if value is None:
        return
    module = value.get("parent_library") if isinstance(value, dict) else None
    if not isinstance(module, str) or not _MODEL_MODULE.fullmatch(module):
        raise _unsupported_error("auto_mapping", value, "It names code to import; export it without.")


def _unsupported_error(key: str, value: object, hint: str) -> InvalidAdapter:
    return InvalidAdapter(
        f"adapter_config.json has {key[:60]} = {str(value)[:60]!r}, which is not supported.", hint=hint
    )


def _parse_rank(key: str, value: object) -> int:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise _unsupported_error(key, value, f"A rank is a whole number from 1 to {MAX_RANK}.")
    return value


def _parse_alpha(key: str, value: object) -> float:
    if type(value) not in (int, float) or not 0 < value <= 1e6:  # type: ignore[operator]
        raise _unsupported_error(key, value, "An alpha is a positive number up to a million.")
    return float(value)  # type: ignore[arg-type]


def _parse_flag(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _unsupported_error(key, value, "Give true or false.")
    return value


def _parse_base_name(value: object) -> str:
    """Parse the base's name; empty where the program that saved the adapter knew none."""
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > 4096:
        raise _unsupported_error("base_model_name_or_path", value, "Name the base model.")
    return value


def _parse_target_modules(value: object) -> tuple[str, ...]:
    """Parse a list of names. A pattern in a string is never run: the weight file names the layers."""
    if isinstance(value, str):
        return ()
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v for v in value):
        raise _unsupported_error("target_modules", value, "List the adapted modules' names.")
    return tuple(sorted(value))


def _parse_token_ids(value: object) -> tuple[int, ...]:
    """Parse the tokens from which an activated LoRA acts; empty for any other."""
    if value is None:
        return ()
    if not isinstance(value, list) or not value or not all(type(v) is int and v >= 0 for v in value):
        raise _unsupported_error("alora_invocation_tokens", value, "List the ids of some tokens.")
    return tuple(value)


def _parse_patterns(document: Mapping[str, Any], key: str) -> list[tuple[str, object]]:
    """Parse rank_pattern or alpha_pattern. `PatternTable` reads its keys."""
    table = document.get(key) or {}
    if not isinstance(table, dict):
        raise _unsupported_error(key, table, "Give a table from module names to numbers.")
    return list(table.items())


def _integer_if_whole(value: float) -> int | float:
    """Write 16 instead of 16.0, because some readers require an integer alpha."""
    return int(value) if float(value).is_integer() else value
