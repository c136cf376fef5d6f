"""How many bytes an adapter takes on disk: arithmetic on shapes, exact to the byte."""

from collections.abc import Sequence
from dataclasses import replace

from ouroboros.domain.base_model import BaseModel, Fingerprint, LinearShape
from ouroboros.domain.config import AUTO, MAX_RANK, AdapterConfig
from ouroboros.domain.errors import InvalidConfig, TooLarge
from ouroboros.domain.weights import MAX_BYTES, Precision
from ouroboros.lora.targets import query_value, select
from ouroboros.lora.tensorfile import Entry, file_size

PREFIX = "base_model.model."
"""What PEFT puts before a module's path."""

GROUP = 32
"""Numbers that share one scale in INT4."""

_FLOATS = {Precision.FLOAT32: "F32", Precision.BFLOAT16: "BF16"}


def predicted_size(
    base: BaseModel, shapes: Sequence[LinearShape], rank: int, precision: Precision
) -> int:
    """Exact bytes of the weight file of an adapter of `rank` on `shapes`, header included."""
    entries = {k: e for shape in shapes for k, e in layer_entries(shape, rank, precision).items()}
    return file_size(entries, file_metadata(base.fingerprint))


def largest_rank(base: BaseModel, shapes: Sequence[LinearShape], precision: Precision) -> int:
    """The largest rank whose weight file stays within 10 MiB; 0 if not even rank 1 does."""
    low, high = 0, MAX_RANK
    while low < high:
        middle = (low + high + 1) // 2
        fits = predicted_size(base, shapes, middle, precision) <= MAX_BYTES
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def check_size(base: BaseModel, config: AdapterConfig) -> Precision:
    """The precision that an adapter of this config is stored in.

    Raises `TooLarge`, naming what would fit, if its weight file would exceed 10 MiB; `UnknownTarget` as
    `select` does. No tensor is needed.
    """
    shapes = select(base, config)
    tried = storage_precisions(config)
    for precision in tried:
        _check_widths(shapes, precision)
        if predicted_size(base, shapes, config.rank, precision) <= MAX_BYTES:
            return precision
    size = predicted_size(base, shapes, config.rank, tried[-1])
    raise TooLarge(
        f"An adapter of rank {config.rank} on {len(shapes)} layers of {base.name} takes {size:,} "
        f"bytes in {tried[-1].value}; the limit is {MAX_BYTES:,} (10 MiB).",
        hint=f"What fits: {_alternatives(base, config, shapes)}.",
    )


def storage_precisions(config: AdapterConfig) -> tuple[Precision, ...]:
    """What may be stored under this config, best first."""
    if config.precision == AUTO:
        return (Precision.FLOAT32, Precision.BFLOAT16)
    return (Precision(config.precision),)


def layer_entries(shape: LinearShape, rank: int, precision: Precision) -> dict[str, Entry]:
    """The tensors that one layer's factors are stored as.

    Floats: A [R, I] and B [O, R], as PEFT has them. Integers: A and B^T, both [R, N], with one float32
    scale per row (INT8), or packed two to a byte with one bfloat16 scale per 32 numbers (INT4).
    """
    prefix = f"{PREFIX}{shape.path}."
    if precision in _FLOATS:
        dtype = _FLOATS[precision]
        return {
            f"{prefix}lora_A.weight": Entry(dtype, (rank, shape.inputs)),
            f"{prefix}lora_B.weight": Entry(dtype, (shape.outputs, rank)),
        }
    entries = {}
    for factor, width in (("lora_A", shape.inputs), ("lora_B", shape.outputs)):
        if precision is Precision.INT8:
            entries[f"{prefix}{factor}.int8"] = Entry("I8", (rank, width))
            entries[f"{prefix}{factor}.scale"] = Entry("F32", (rank, 1))
        else:
            entries[f"{prefix}{factor}.int4"] = Entry("U8", (rank, width // 2))
            entries[f"{prefix}{factor}.scale"] = Entry("BF16", (rank, -(-width // GROUP)))
    return entries


def file_metadata(base: Fingerprint | None) -> dict[str, str]:
    """The free text in a weight file's header: which base it was made for."""
    if base is None:
        return {"format": "pt"}
    return {
        "format": "pt",
        "base.config": base.config,
        "base.tokenizer": base.tokenizer,
        "base.template": base.template,
        "base.weights": base.weights,
        "base.vocabulary": str(base.vocabulary),
    }


def _alternatives(base: BaseModel, config: AdapterConfig, shapes: Sequence[LinearShape]) -> str:
    """Changes that would bring the adapter under the limit, least loss first."""
    tried = storage_precisions(config)[-1]
    found = []
    for precision in list(Precision)[list(Precision).index(tried) + 1 :]:
        if predicted_size(base, shapes, config.rank, precision) <= MAX_BYTES:
            found.append(f'precision="{precision.value}"')
    rank = largest_rank(base, shapes, tried)
    if rank:
        found.append(f"rank {rank} in {tried.value}")
    if query_value(base):
        fewer = select(base, replace(config, target_modules=AUTO))
        if predicted_size(base, fewer, config.rank, tried) <= MAX_BYTES:
            found.append(f'fewer modules, target_modules="{AUTO}"')
    return "; ".join(found) or "nothing on these layers"


def _check_widths(shapes: Sequence[LinearShape], precision: Precision) -> None:
    odd = [s.path for s in shapes if s.inputs % 2 or s.outputs % 2]
    if precision is Precision.INT4 and odd:
        raise InvalidConfig(
            f"int4 packs two numbers to a byte, and {odd[0]} has an odd width.", hint="Use int8."
        )
