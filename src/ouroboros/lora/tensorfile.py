"""The safetensors container: 8 bytes of header length, a JSON header, then the tensors' bytes.

Reading is stricter than the format's own library, which lets duplicate names pass: every byte of the
file belongs to exactly one tensor. No tensor library is needed here.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ouroboros.domain.errors import InvalidAdapter

MAX_HEADER = 1 << 20
"""A header is at most 1 MiB."""

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1}
"""Bytes per item of the dtypes that are understood."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor's dtype, as safetensors spells it, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of the tensor's data."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class TensorFile:
    """A file taken apart: what each tensor is, its bytes, and the header's free text."""

    entries: Mapping[str, Entry]
    data: Mapping[str, memoryview]
    metadata: Mapping[str, str]


def layout(entries: Mapping[str, Entry]) -> list[str]:
    """The order in which tensors lie in a file we write: widest dtype first, then by name."""
    return sorted(entries, key=lambda name: (-ITEM_BYTES[entries[name].dtype], name))


def write_header(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> bytes:
    """Everything before the first tensor's bytes; equal arguments give equal bytes."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    at = 0
    for name in layout(entries):
        entry = entries[name]
        stop = at + entry.size
        header[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [at, stop]}
        at = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def file_size(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> int:
    """Exact bytes of the file that these tensors would make."""
    return len(write_header(entries, metadata)) + sum(e.size for e in entries.values())


def read(raw: bytes) -> TensorFile:
    """Take a file apart; raises `InvalidAdapter` unless every byte is accounted for exactly once."""
    header, start = _header(raw)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _damaged("its metadata is not a table of texts")
    spans = {name: _span(name, value) for name, value in header.items()}
    at = 0
    for name, (entry, first, last) in sorted(spans.items(), key=lambda item: item[1][1:]):
        if first != at or last - first != entry.size:
            raise _damaged(f"the data of {name} overlaps, leaves a gap or does not fit its shape")
        at = last
    if start + at != len(raw):
        raise _damaged(f"it has {len(raw) - start} bytes of tensors where its header describes {at}")
    view = memoryview(raw)
    return TensorFile(
        entries={name: entry for name, (entry, _, _) in spans.items()},
        data={name: view[start + first : start + last] for name, (_, first, last) in spans.items()},
        metadata=metadata,
    )


def _header(raw: bytes) -> tuple[dict[str, Any], int]:
    """The parsed header, and where the tensors' bytes start."""
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or length > MAX_HEADER or 8 + length > len(raw):
        raise _damaged("its header is cut off or longer than 1 MiB")
    return parse_object(raw[8 : 8 + length], "The weight file's header"), 8 + length


def _span(name: str, value: object) -> tuple[Entry, int, int]:
    """One header entry: the tensor, and where its data starts and stops."""
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise _damaged(f"{name} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _damaged(f"{name} has dtype {dtype!r}; known are {', '.join(ITEM_BYTES)}")
    if not _naturals(shape) or not shape or 0 in shape:
        raise _damaged(f"{name} has shape {shape!r}")
    if not _naturals(offsets) or len(offsets) != 2:
        raise _damaged(f"{name} has data_offsets {offsets!r}")
    return Entry(dtype, tuple(shape)), offsets[0], offsets[1]


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 48 for v in value)


def parse_object(raw: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object without duplicate keys, NaN or endless nesting; raises `InvalidAdapter`."""
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidAdapter(f"{what} is not sound JSON: {str(error)[:200]}.", hint=_HINT) from None
    if not isinstance(value, dict):
        raise InvalidAdapter(f"{what} is not a JSON object.", hint=_HINT)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


_HINT = "Export the adapter again from where it came."


def _damaged(reason: str) -> InvalidAdapter:
    return InvalidAdapter(f"The weight file is not a sound adapter: {reason[:300]}.", hint=_HINT)
