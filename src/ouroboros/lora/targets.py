"""Select the layers of a base that an adapter changes, by name. No tensor is needed."""

from collections.abc import Iterable

from ouroboros.domain.base_model import BaseModel, LinearShape
from ouroboros.domain.config import ALL_LINEAR, AUTO, AdapterConfig
from ouroboros.domain.errors import UnknownTarget

_QUERY_VALUE = (
    ("q_proj", "v_proj"),  # Llama, Mistral, Qwen, Gemma, OPT, GPT-J, Phi, StableLM, OLMo, Cohere, ...
    ("qkv_proj",),  # Phi-3, CodeGen
    ("query_key_value",),  # GPT-NeoX, BLOOM, Falcon
    ("c_attn",),  # GPT-2, GPT-BigCode
    ("Wqkv",),  # MPT
    ("q_b_proj", "kv_b_proj"),  # DeepSeek with compressed queries
    ("q_proj", "kv_b_proj"),  # DeepSeek
    ("query", "value"),
    ("wq", "wv"),
)
"""Names of the query and value projections, fused or not. The first entry that a base has wins."""


def select_layers(base: BaseModel, config: AdapterConfig) -> tuple[LinearShape, ...]:
    """Return the layers of `base` that match `config.target_modules`, in the base's order.

    Raises `UnknownTarget`, listing the existing names, if any of the names matches no layer.
    """
    names = config.target_names
    if names == (ALL_LINEAR,):
        return base.linears
    if names == (AUTO,):
        names = query_value_names(base)
        if not names:
            raise _unknown_target_error(
                base, f'"auto" knows no query and value projections in {base.architecture}.'
            )
    for name in names:
        if not any(matches_target(shape.path, name) for shape in base.linears):
            raise _unknown_target_error(base, f"{name!r} matches no linear layer of {base.name}.")
    return tuple(s for s in base.linears if any(matches_target(s.path, n) for n in names))


def matches_target(path: str, name: str) -> bool:
    """Whether PEFT's `target_modules` entry `name` matches `path`: equal to it, or its end."""
    return path == name or path.endswith(f".{name}")


def shortest_names(base: BaseModel, paths: Iterable[str]) -> tuple[str, ...]:
    """Return the fewest `target_modules` entries that match exactly `paths`: names or full paths."""
    selected = set(paths)
    names: list[str] = []
    for name in sorted({path.rpartition(".")[2] for path in selected}):
        layers_of_name = {s.path for s in base.linears if matches_target(s.path, name)}
        names += (
            [name]
            if layers_of_name <= selected
            else sorted(p for p in selected if matches_target(p, name))
        )
    return tuple(names)


def target_modules_for(base: BaseModel, paths: Iterable[str]) -> str | tuple[str, ...]:
    """Return the shortest `target_modules` that matches exactly `paths`."""
    selected = set(paths)
    return ALL_LINEAR if selected == {s.path for s in base.linears} else shortest_names(base, selected)


def query_value_names(base: BaseModel) -> tuple[str, ...]:
    """Return the names of the base's query and value projections; empty if they are unknown."""
    present = {shape.name for shape in base.linears}
    return next((names for names in _QUERY_VALUE if present.issuperset(names)), ())


def attention_layers(base: BaseModel) -> frozenset[str]:
    """Return the layers of the base's attention blocks: query, value and their siblings."""
    names = query_value_names(base)
    blocks = {_parent_module(shape.path) for shape in base.linears if shape.name in names}
    return frozenset(shape.path for shape in base.linears if _parent_module(shape.path) in blocks)


def _parent_module(path: str) -> str:
    return path.rpartition(".")[0]


def _unknown_target_error(base: BaseModel, message: str) -> UnknownTarget:
    names = ", ".join(dict.fromkeys(s.name for s in base.linears))
    return UnknownTarget(message, hint=f'It has {names}; or use "auto" or "all-linear".')
