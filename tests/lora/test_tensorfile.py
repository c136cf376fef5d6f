"""The safetensors container: written as its library does, read without trust."""

import json
import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load as safetensors_load
from safetensors.torch import save as safetensors_save

from ouroboros.domain.errors import InvalidAdapter
from ouroboros.lora.tensorfile import (
    TensorFile,
    TensorSpec,
    file_size,
    read_tensor_file,
    storage_order,
    write_header,
)

FUZZ_CASES = 10_000


def make_file(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor_entry(start: int = 0, stop: int = 16, **changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2, 2], "data_offsets": [start, stop], **changes}


def valid_file() -> bytes:
    tensors = {"a": torch.randn(3, 5), "b": torch.randn(4, 2), "c": torch.ones(6).bfloat16()}
    return safetensors_save(tensors, {"format": "pt"})


def test_a_librarys_file_is_read_whole():
    a = torch.arange(6.0).view(2, 3)
    file = read_tensor_file(safetensors_save({"a": a, "b": torch.zeros(1).half()}, {"k": "v"}))
    assert file.specs == {"a": TensorSpec("F32", (2, 3)), "b": TensorSpec("F16", (1,))}
    assert bytes(file.data["a"]) == a.numpy().tobytes()
    assert file.metadata == {"k": "v"}


def test_a_file_of_ours_is_read_by_the_library():
    entries = {
        "b": TensorSpec("F32", (2, 2)),
        "a": TensorSpec("I8", (3, 1)),
        "c": TensorSpec("BF16", (4,)),
    }
    assert storage_order(entries) == ["b", "c", "a"], "wide numbers first, so that all are aligned"
    written = write_header(entries, {"k": "v"}) + bytes(range(27))
    assert len(written) == file_size(entries, {"k": "v"})
    loaded = safetensors_load(written)
    assert {n: tuple(t.shape) for n, t in loaded.items()} == {n: e.shape for n, e in entries.items()}
    assert len(write_header(entries, {})) % 8 == 0


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "cut off"),
        (b"\x01\x00", "cut off"),
        ((1 << 63).to_bytes(8, "little") + b"{}", "longer than 1 MiB"),
        (make_file(b" " * ((1 << 20) + 1)), "longer than 1 MiB"),
        (make_file(b"\xff\xfe"), "not sound JSON"),
        (make_file(b"[]"), "not a JSON object"),
        (make_file(b"[" * 100_000), "recursion"),
        (make_file(b'{"a": NaN}'), "NaN"),
        (make_file(b'{"a": {}, "a": {}}'), "occurs twice"),
        (make_file(b'{"a": {"dtype": "F32", "dtype": "F16"}}'), "occurs twice"),
        (make_file({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)), "not described"),
        (make_file({"a": tensor_entry(more=1)}, bytes(16)), "not described"),
        (make_file({"a": tensor_entry(dtype="F64")}, bytes(16)), "dtype 'F64'"),
        (make_file({"a": tensor_entry(dtype=["F32"])}, bytes(16)), "dtype"),
        (make_file({"a": tensor_entry(shape=[])}, bytes(16)), "shape"),
        (make_file({"a": tensor_entry(shape=[0, 4])}, b""), "shape"),
        (make_file({"a": tensor_entry(shape=[-2, -2])}, bytes(16)), "shape"),
        (make_file({"a": tensor_entry(shape=[True, 4])}, bytes(16)), "shape"),
        (make_file({"a": tensor_entry(shape=[2.0, 2])}, bytes(16)), "shape"),
        (make_file({"a": tensor_entry(shape=[1 << 60, 1 << 60])}, bytes(16)), "shape"),
        (make_file({"a": tensor_entry(0, 12)}, bytes(12)), "fit its shape"),
        (make_file({"a": tensor_entry(4, 20)}, bytes(20)), "gap"),
        (make_file({"a": tensor_entry(), "b": tensor_entry()}, bytes(16)), "overlaps"),
        (make_file({"a": tensor_entry(), "b": tensor_entry(8, 24)}, bytes(24)), "overlaps"),
        (make_file({"a": tensor_entry(16, 0)}, bytes(16)), "gap"),
        (make_file({"a": tensor_entry()}, bytes(17)), "17 bytes"),
        (make_file({"a": tensor_entry()}, bytes(15)), "15 bytes"),
        (make_file({"__metadata__": {"a": 1}}), "metadata"),
        (make_file({"__metadata__": []}), "metadata"),
    ],
)
def test_damage_is_refused_in_words(file: bytes, reason: str):
    with pytest.raises(InvalidAdapter, match=reason):
        read_tensor_file(file)


@pytest.mark.parametrize("percent", range(100))
def test_a_truncated_file_is_refused(percent: int):
    file = valid_file()
    with pytest.raises(InvalidAdapter):
        read_tensor_file(file[: len(file) * percent // 100])


def test_fuzzed_headers_are_read_exactly_or_refused():
    """Bytes of a sound header are flipped, dropped, doubled: no crash, every byte read once."""
    source = random.Random(0)
    refused = 0
    for _ in range(FUZZ_CASES):
        file = _mutate(valid_header_file(), source)
        try:
            _check_covers(read_tensor_file(file), file)
        except InvalidAdapter:
            refused += 1
    assert 0.5 * FUZZ_CASES < refused < FUZZ_CASES


def valid_header_file() -> bytearray:
    entries = {
        "x.lora_A.weight": TensorSpec("F32", (2, 4)),
        "x.lora_B.weight": TensorSpec("F32", (4, 2)),
    }
    return bytearray(write_header(entries, {"format": "pt"}) + bytes(64))


def _mutate(file: bytearray, source: random.Random) -> bytes:
    header = 8 + int.from_bytes(file[:8], "little")
    for _ in range(source.randint(1, 4)):
        at = source.randrange(header)
        kind = source.randrange(3)
        if kind == 0:
            file[at] = source.choice(b'0123456789{}[]",:-eE\x00\xff AZaz')
        elif kind == 1:
            del file[at]
        else:
            file.insert(at, file[source.randrange(header)])
    return bytes(file)


def _check_covers(file: TensorFile, source: bytes) -> None:
    header = 8 + int.from_bytes(source[:8], "little")
    assert header + sum(len(data) for data in file.data.values()) == len(source)
    assert all(len(file.data[name]) == entry.size for name, entry in file.specs.items())


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(file: bytes):
    try:
        read_tensor_file(file)
    except InvalidAdapter as error:
        assert error.hint
