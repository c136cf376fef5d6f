"""Which layers of a base an adapter touches. Arithmetic on names only; no tensor is needed."""

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
"""What architectures call the projections to query and value, fused or not; the first there is wins."""


def select(base: BaseModel, config: AdapterConfig) -> tuple[LinearShape, ...]:
    """The layers that `config.target_modules` means in `base`, in the base's order.

    Raises `UnknownTarget`, listing what there is, if any one of the names matches nothing.
    """
    names = config.target_names
    if names == (ALL_LINEAR,):
        return base.linears
    if names == (AUTO,):
        names = query_value(base)
        if not names:
            raise _unknown(base, f'"auto" knows no query and value projections in {base.architecture}.')
    for name in names:
        if not any(matches(shape.path, name) for shape in base.linears):
            raise _unknown(base, f"{name!r} matches no linear layer of {base.name}.")
    return tuple(s for s in base.linears if any(matches(s.path, n) for n in names))


def matches(path: str, name: str) -> bool:
    """Whether PEFT's `target_modules` entry `name` means the module `path`: it is it, or ends it."""
    return path == name or path.endswith(f".{name}")


def shortest_names(base: BaseModel, paths: Iterable[str]) -> tuple[str, ...]:
    """The fewest `target_modules` entries that mean exactly `paths`: layer names, or whole paths."""
    chosen = set(paths)
    names: list[str] = []
    for name in sorted({path.rpartition(".")[2] for path in chosen}):
        all_of = {s.path for s in base.linears if matches(s.path, name)}
        names += [name] if all_of <= chosen else sorted(p for p in chosen if matches(p, name))
    return tuple(names)


def targets_of(base: BaseModel, paths: Iterable[str]) -> str | tuple[str, ...]:
    """`target_modules` that mean exactly `paths`, in as few words as there are."""
    chosen = set(paths)
    return ALL_LINEAR if chosen == {s.path for s in base.linears} else shortest_names(base, chosen)


def query_value(base: BaseModel) -> tuple[str, ...]:
    """What `base` calls its projections to query and value; empty if that is not known."""
    present = {shape.name for shape in base.linears}
    return next((names for names in _QUERY_VALUE if present.issuperset(names)), ())


def attention(base: BaseModel) -> frozenset[str]:
    """The layers of `base`'s attention blocks: query and value, and what lies beside them."""
    names = query_value(base)
    blocks = {_block(shape.path) for shape in base.linears if shape.name in names}
    return frozenset(shape.path for shape in base.linears if _block(shape.path) in blocks)


def _block(path: str) -> str:
    return path.rpartition(".")[0]


def _unknown(base: BaseModel, message: str) -> UnknownTarget:
    names = ", ".join(dict.fromkeys(s.name for s in base.linears))
    return UnknownTarget(message, hint=f'It has {names}; or use "auto" or "all-linear".')
