"""The size of an adapter on disk, exact to the byte, from shapes alone."""

from collections.abc import Sequence
from dataclasses import replace

from ouroboros.domain.base_model import BaseModel, Fingerprint, LinearShape
from ouroboros.domain.config import AUTO, MAX_RANK, AdapterConfig
from ouroboros.domain.errors import InvalidConfig, TooLarge
from ouroboros.domain.weights import MAX_BYTES, Precision
from ouroboros.lora.targets import query_value_names, select_layers
from ouroboros.lora.tensorfile import TensorSpec, file_size

PREFIX = "base_model.model."
"""PEFT's prefix of a module's path."""

INT4_GROUP = 32
"""Numbers that share one scale in INT4."""

_FLOATS = {Precision.FLOAT32: "F32", Precision.BFLOAT16: "BF16"}


def predicted_size(
    base: BaseModel, shapes: Sequence[LinearShape], rank: int, precision: Precision
) -> int:
    """Return the exact size of the weight file of an adapter of `rank` on `shapes`, header included."""
    entries = {k: e for shape in shapes for k, e in layer_tensor_specs(shape, rank, precision).items()}
    return file_size(entries, file_metadata(base.fingerprint))


def largest_rank(base: BaseModel, shapes: Sequence[LinearShape], precision: Precision) -> int:
    """Return the largest rank whose weight file stays within 10 MiB; 0 if rank 1 does not."""
    low, high = 0, MAX_RANK
    while low < high:
        middle = (low + high + 1) // 2
        fits = predicted_size(base, shapes, middle, precision) <= MAX_BYTES
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def check_size(base: BaseModel, config: AdapterConfig) -> Precision:
    """Return the precision in which an adapter of this config is stored. No tensor is needed.

    Raises `TooLarge`, naming what would fit, if its weight file would exceed 10 MiB; `UnknownTarget` as
    `select_layers` does.
    """
    shapes = select_layers(base, config)
    candidates = storage_precisions(config)
    for precision in candidates:
        _check_widths(shapes, precision)
        if predicted_size(base, shapes, config.rank, precision) <= MAX_BYTES:
            return precision
    size = predicted_size(base, shapes, config.rank, candidates[-1])
    raise TooLarge(
        f"An adapter of rank {config.rank} on {len(shapes)} layers of {base.name} takes {size:,} "
        f"bytes in {candidates[-1].value}; the limit is {MAX_BYTES:,} (10 MiB).",
        hint=f"What fits: {_alternatives(base, config, shapes)}.",
    )


def storage_precisions(config: AdapterConfig) -> tuple[Precision, ...]:
    """Return the precisions that this config allows, best first."""
    if config.precision == AUTO:
        return (Precision.FLOAT32, Precision.BFLOAT16)
    return (Precision(config.precision),)


def layer_tensor_specs(shape: LinearShape, rank: int, precision: Precision) -> dict[str, TensorSpec]:
    """Return the name, dtype and shape of the tensors that store one layer's factors.

    Floats: A [R, I] and B [O, R], as PEFT has them. Integers: A and B^T, both [R, N], with one float32
    scale per row (INT8), or packed two to a byte with one bfloat16 scale per 32 numbers (INT4).
    """
    prefix = f"{PREFIX}{shape.path}."
    if precision in _FLOATS:
        dtype = _FLOATS[precision]
        return {
            f"{prefix}lora_A.weight": TensorSpec(dtype, (rank, shape.inputs)),
            f"{prefix}lora_B.weight": TensorSpec(dtype, (shape.outputs, rank)),
        }
    entries = {}
    for factor, width in (("lora_A", shape.inputs), ("lora_B", shape.outputs)):
        if precision is Precision.INT8:
            entries[f"{prefix}{factor}.int8"] = TensorSpec("I8", (rank, width))
            entries[f"{prefix}{factor}.scale"] = TensorSpec("F32", (rank, 1))
        else:
            entries[f"{prefix}{factor}.int4"] = TensorSpec("U8", (rank, width // 2))
            entries[f"{prefix}{factor}.scale"] = TensorSpec("BF16", (rank, -(-width // INT4_GROUP)))
    return entries


def file_metadata(base: Fingerprint | None) -> dict[str, str]:
    """Return the metadata in a weight file's header: the fingerprint of its base."""
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
    """Describe changes that bring the adapter under the limit, the smallest loss first."""
    precision_used = storage_precisions(config)[-1]
    alternatives = []
    for precision in list(Precision)[list(Precision).index(precision_used) + 1 :]:
        if predicted_size(base, shapes, config.rank, precision) <= MAX_BYTES:
            alternatives.append(f'precision="{precision.value}"')
    rank = largest_rank(base, shapes, precision_used)
    if rank:
        alternatives.append(f"rank {rank} in {precision_used.value}")
    if query_value_names(base):
        fewer = select_layers(base, replace(config, target_modules=AUTO))
        if predicted_size(base, fewer, config.rank, precision_used) <= MAX_BYTES:
            alternatives.append(f'fewer modules, target_modules="{AUTO}"')
    return "; ".join(alternatives) or "nothing on these layers"


def _check_widths(shapes: Sequence[LinearShape], precision: Precision) -> None:
    odd_paths = [s.path for s in shapes if s.inputs % 2 or s.outputs % 2]
    if precision is Precision.INT4 and odd_paths:
        raise InvalidConfig(
            f"int4 packs two numbers to a byte, and {odd_paths[0]} has an odd width.", hint="Use int8."
        )
