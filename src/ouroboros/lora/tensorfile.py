"""The safetensors container: 8 bytes of header length, a JSON header, then the tensors' bytes.

Reading is stricter than in the format's own library, which accepts duplicate names: every byte of the
file belongs to exactly one tensor. No tensor library is needed.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ouroboros.domain.errors import InvalidAdapter

MAX_HEADER = 1 << 20
"""Largest accepted header: 1 MiB."""

MAX_DIMENSIONS = 8
"""Most dimensions of a tensor. The size of one with thousands would take minutes to compute."""

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1}
"""Bytes per item of the supported dtypes."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor's dtype, as safetensors spells it, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of the tensor's data."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class TensorFile:
    """A parsed file: the dtype and shape of each tensor, its bytes, and the header's metadata."""

    specs: Mapping[str, TensorSpec]
    data: Mapping[str, memoryview]
    metadata: Mapping[str, str]


def storage_order(entries: Mapping[str, TensorSpec]) -> list[str]:
    """The order of tensors in the files written here: widest dtype first, then by name."""
    return sorted(entries, key=lambda name: (-ITEM_BYTES[entries[name].dtype], name))


def write_header(entries: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> bytes:
    """Encode everything before the first tensor's bytes. Equal arguments give equal bytes."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for name in storage_order(entries):
        entry = entries[name]
        stop = offset + entry.size
        header[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def file_size(entries: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> int:
    """Return the exact size in bytes of a file with these tensors."""
    return len(write_header(entries, metadata)) + sum(e.size for e in entries.values())


def read_tensor_file(raw: bytes) -> TensorFile:
    """Parse a file. Raises `InvalidAdapter` unless every byte belongs to exactly one tensor."""
    header, start = _read_header(raw)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _damage_error("its metadata is not a table of texts")
    spans = {name: _read_span(name, value) for name, value in header.items()}
    offset = 0
    for name, (entry, first, last) in sorted(spans.items(), key=lambda item: item[1][1:]):
        if first != offset or last - first != entry.size:
            raise _damage_error(f"the data of {name} overlaps, leaves a gap or does not fit its shape")
        offset = last
    if start + offset != len(raw):
        raise _damage_error(
            f"it has {len(raw) - start} bytes of tensors where its header describes {offset}"
        )
    view = memoryview(raw)
    return TensorFile(
        specs={name: entry for name, (entry, _, _) in spans.items()},
        data={name: view[start + first : start + last] for name, (_, first, last) in spans.items()},
        metadata=metadata,
    )


def _read_header(raw: bytes) -> tuple[dict[str, Any], int]:
    """Return the parsed header, and the offset of the tensors' bytes."""
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or length > MAX_HEADER or 8 + length > len(raw):
        raise _damage_error("its header is cut off or longer than 1 MiB")
    return parse_json_object(raw[8 : 8 + length], "The weight file's header"), 8 + length


def _read_span(name: str, value: object) -> tuple[TensorSpec, int, int]:
    """Parse one header entry: dtype and shape, and the start and end of its data."""
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise _damage_error(f"{name} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _damage_error(f"{name} has dtype {dtype!r}; known are {', '.join(ITEM_BYTES)}")
    if not _is_natural_list(shape) or not 0 < len(shape) <= MAX_DIMENSIONS or 0 in shape:
        raise _damage_error(f"{name} has shape {str(shape)[:80]}")
    if not _is_natural_list(offsets) or len(offsets) != 2:
        raise _damage_error(f"{name} has data_offsets {offsets!r}")
    return TensorSpec(dtype, tuple(shape)), offsets[0], offsets[1]


def _is_natural_list(value: object) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 48 for v in value)


def parse_json_object(raw: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object. Raises `InvalidAdapter` for duplicate keys, NaN or excessive nesting."""
    try:
        value = json.loads(
            raw.decode(), object_pairs_hook=_refuse_duplicate_keys, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise InvalidAdapter(f"{what} is not sound JSON: {str(error)[:200]}.", hint=_HINT) from None
    if not isinstance(value, dict):
        raise InvalidAdapter(f"{what} is not a JSON object.", hint=_HINT)
    return value


def _refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key occurs twice")
    return document


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


_HINT = "Export the adapter again from its source."


def _damage_error(reason: str) -> InvalidAdapter:
    return InvalidAdapter(f"The weight file is not a sound adapter: {reason[:300]}.", hint=_HINT)
