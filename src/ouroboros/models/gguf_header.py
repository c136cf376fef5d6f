"""The header of a GGUF file: metadata and a table of tensors, read with a bound on every size it states.

The format (version 2 and 3): magic, counts, key-value pairs, one description per tensor, then the
tensors' data, each aligned. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

A file may come from anywhere, so nothing it states is trusted: no count, length or offset leads to an
allocation or a read that the file's own size does not cover.
"""

import math
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ouroboros.domain.errors import ModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)

MAX_HEADER = 128 << 20
"""Bytes before the tensors' data. A vocabulary of 262,144 tokens takes about 5 MiB."""

MAX_PAIRS = 4096
MAX_TENSORS = 100_000
MAX_KEY = 1024
MAX_TEXT = 4 << 20
"""Bytes of one text; chat templates are the longest, with some tens of KiB."""

MAX_ITEMS = 1 << 22
"""Items of one list; vocabularies and merges are the longest, with some hundred thousand."""

_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
"""Types of values; those of a fixed size are in `_FORMATS`, by the letters of `struct`."""

BLOCKS = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
}
"""By a tensor's type: its name, numbers per block, bytes per block. All of them can be dequantised."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: its shape as torch has it (rows first), its type, and where its bytes lie."""

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """A file's metadata by key, and its tensors by name."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]

    @property
    def architecture(self) -> str:
        """The name of the architecture, such as llama, or "" if the file has none."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def quantization(self) -> str:
        """The type that most of the weights are kept in, like Q4_1."""
        counts: dict[str, int] = {}
        for tensor in self.tensors.values():
            kind = BLOCKS[tensor.kind][0]
            counts[kind] = counts.get(kind, 0) + math.prod(tensor.shape)
        return max(counts, key=lambda kind: counts[kind], default="")


def has_gguf_magic(path: Path) -> bool:
    """Whether a file begins as GGUF files do, whatever it is called."""
    try:
        with path.open("rb") as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


def read_header(path: Path) -> GGUFHeader:
    """The header of a GGUF file; no tensor is read.

    Raises `ModelError` for a file that is cut, damaged, of another format, or of a quantisation that is
    not known here.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 24:
                raise _damage_error(path, "it is shorter than a header")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                return _Reader(path, view, size).header()
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror}.", hint="Check the path and its permissions."
        ) from error


def _damage_error(path: Path, why: str) -> ModelError:
    return ModelError(
        f"{path} is not a whole GGUF file: {why}.", hint="Fetch it again, and compare its checksum."
    )


class _Reader:
    """Reads values one after the other; every read is checked against the file's end and the limits."""

    def __init__(self, path: Path, view: mmap.mmap, size: int) -> None:
        self._path = path
        self._view = view
        self._size = size
        self._end = min(size, MAX_HEADER)
        self._at = 0

    def header(self) -> GGUFHeader:
        # 1. Magic, version and counts.
        if self._take(4) != MAGIC:
            raise _damage_error(self._path, "it does not begin as one")
        version = self._number("I")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            raise ModelError(
                f"{self._path} is a big-endian GGUF file."
                if swapped
                else f"{self._path} is of version {version} of GGUF; versions 2 and 3 can be read.",
                hint="Fetch the model in the usual form (little-endian, version 3).",
            )
        tensors = self._count("tensors", MAX_TENSORS)
        pairs = self._count("key-value pairs", MAX_PAIRS)

        # 2. Metadata.
        metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self._text(MAX_KEY, "a key")
            if key in metadata:
                raise _damage_error(self._path, f"it states {key[:80]!r} twice")
            metadata[key] = self._value(key, self._number("I"))

        # 3. Descriptions of the tensors; their offsets count from where the data starts.
        described = [self._description() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= 1 << 16 or alignment % 8:
            raise _damage_error(self._path, f"its alignment is {alignment!r}")
        start = -(-self._at // alignment) * alignment

        # 4. Every tensor lies within the file, and no two share a byte.
        infos = {n: TensorInfo(n, s, k, start + at, size) for n, s, k, at, size in described}
        if len(infos) < len(described):
            raise _damage_error(self._path, "two of its tensors have the same name")
        end = start
        for info in sorted(infos.values(), key=lambda tensor: tensor.start):
            if info.start < end:
                raise _damage_error(self._path, f"the data of {info.name[:80]!r} overlaps others")
            end = info.start + info.size
        if end > self._size:
            raise _damage_error(
                self._path, f"it is cut: {end:,} bytes are described, {self._size:,} are there"
            )
        return GGUFHeader(metadata, infos)

    def _description(self) -> tuple[str, tuple[int, ...], int, int, int]:
        name = self._text(MAX_KEY, "a tensor's name")
        dimensions = self._number("I")
        if not 1 <= dimensions <= 4:
            raise _damage_error(self._path, f"the tensor {name[:80]!r} has {dimensions} dimensions")
        shape = tuple(reversed([self._number("Q") for _ in range(dimensions)]))
        kind, offset = self._number("I"), self._number("Q")
        if kind not in BLOCKS:
            raise ModelError(
                f"{self._path} holds {name[:80]!r} in an unknown quantisation (type {kind}).",
                hint=f"Take the model in one of {', '.join(b[0] for b in BLOCKS.values())}.",
            )
        _, numbers, width = BLOCKS[kind]
        count = math.prod(shape)
        if not 0 < count <= 1 << 40 or shape[-1] % numbers:
            raise _damage_error(self._path, f"the tensor {name[:80]!r} has the shape {list(shape)}")
        return name, shape, kind, offset, count // numbers * width

    def _value(self, key: str, kind: int) -> Any:
        if kind == _TEXT:
            return self._text(MAX_TEXT, key[:80])
        if kind == _LIST:
            return self._list(key)
        return self._number(self._format(key, kind))

    def _list(self, key: str) -> list[Any]:
        kind = self._number("I")
        length = self._count(f"items of {key[:80]!r}", MAX_ITEMS)
        if kind == _LIST:
            raise _damage_error(self._path, f"{key[:80]!r} is a list of lists")
        if kind == _TEXT:
            return [self._text(MAX_TEXT, key[:80]) for _ in range(length)]
        letter = self._format(key, kind)
        return list(struct.unpack(f"<{length}{letter}", self._take(length * struct.calcsize(letter))))

    def _format(self, key: str, kind: int) -> str:
        if kind not in _FORMATS:
            raise _damage_error(self._path, f"{key[:80]!r} has a value of unknown type {kind}")
        return _FORMATS[kind]

    def _text(self, limit: int, what: str) -> str:
        length = self._number("Q")
        if length > limit:
            raise _damage_error(self._path, f"{what} is {length:,} bytes long, over {limit:,}")
        try:
            return self._take(length).decode()
        except UnicodeDecodeError:
            raise _damage_error(self._path, f"{what} is not UTF-8") from None

    def _count(self, what: str, limit: int) -> int:
        count = self._number("Q")
        if count > limit:
            raise _damage_error(self._path, f"it states {count:,} {what}; at most {limit:,} are allowed")
        return count

    def _number(self, letter: str) -> Any:
        return struct.unpack(f"<{letter}", self._take(struct.calcsize(letter)))[0]

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > self._end:
            cut = self._end == self._size
            raise _damage_error(
                self._path, "it is cut" if cut else f"its header is over {MAX_HEADER:,} bytes"
            )
        start, self._at = self._at, end
        return self._view[start:end]
