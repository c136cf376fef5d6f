"""Headers of GGUF files, hostile ones too: refused quickly, in words, before anything is allocated."""

import struct
import time

import gguf
import pytest

from ouroboros.domain.errors import ModelError
from ouroboros.models.gguf_header import has_gguf_magic, read_header
from tests.models.gguf_files import raw_header, raw_text, tiny_gguf

ARCHITECTURE = raw_text("general.architecture") + struct.pack("<I", 8) + raw_text("llama")


def tensor(name="w", shape=(32,), kind=0, offset=0):
    return raw_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def list_of(kind, length, items=b""):
    return raw_text("list") + struct.pack("<IIQ", 9, kind, length) + items


def test_a_header_is_read_as_it_was_written(tmp_path):
    _, path = tiny_gguf(tmp_path, kind=gguf.GGMLQuantizationType.Q8_0)
    header = read_header(path)
    reader = gguf.GGUFReader(path)
    assert header.architecture == "llama"
    assert header.quantization == "Q8_0"
    assert header.metadata["llama.embedding_length"] == 64
    expected = {t.name: (t.data_offset, t.n_bytes) for t in reader.tensors}
    assert {n: (t.start, t.size) for n, t in header.tensors.items()} == expected
    assert header.tensors["token_embd.weight"].shape[1] == 64


def test_the_sizes_of_blocks_are_those_of_llama_cpp():
    from ouroboros.models.gguf_header import BLOCKS

    for kind, (name, numbers, width) in BLOCKS.items():
        expected = gguf.GGMLQuantizationType(kind)
        assert (name, (numbers, width)) == (expected.name, gguf.GGML_QUANT_SIZES[expected])


def test_a_file_cut_anywhere_is_refused(tmp_path):
    _, path = tiny_gguf(tmp_path)
    content = path.read_bytes()
    for end in [0, 3, 4, 20, 24, 30, 200, 5000, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:end])
        with pytest.raises(ModelError, match="not a whole GGUF file") as caught:
            read_header(path)
        assert "Fetch it again" in caught.value.hint


HOSTILE = {
    "states 18,446,744,073,709,551,615 key-value pairs": raw_header([], counts=(0, 2**64 - 1)),
    "states 18,446,744,073,709,551,615 tensors": raw_header([], counts=(2**64 - 1, 0)),
    "a key is 9,223,372,036,854,775,808 bytes long": raw_header(
        [struct.pack("<Q", 2**63)], counts=(0, 1)
    ),
    "not UTF-8": raw_header([struct.pack("<Q", 2) + b"\xff\xff" + struct.pack("<IB", 0, 1)]),
    "twice": raw_header([ARCHITECTURE, ARCHITECTURE]),
    "value of unknown type 99": raw_header([raw_text("key") + struct.pack("<I", 99)]),
    "states 4,000,000,000 items": raw_header([list_of(0, 4_000_000_000)]),
    "it is cut": raw_header([list_of(0, 4_000_000)]),
    "list of lists": raw_header([list_of(9, 1, struct.pack("<IQ", 9, 1))]),
    "its alignment is 0": raw_header([raw_text("general.alignment") + struct.pack("<II", 4, 0)]),
    "its alignment is 7": raw_header([raw_text("general.alignment") + struct.pack("<II", 4, 7)]),
    "has 5 dimensions": raw_header([], [tensor(shape=(1, 1, 1, 1, 1))]),
    "has 0 dimensions": raw_header([], [tensor(shape=())]),
    "has the shape": raw_header([], [tensor(shape=(2**40, 2**40))]),
    "has the shape [0]": raw_header([], [tensor(shape=(0,))]),
    "has the shape [33]": raw_header([], [tensor(shape=(33,), kind=3)]),
    "unknown quantisation (type 77)": raw_header([], [tensor(kind=77)]),
    "bytes are described": raw_header([], [tensor(offset=2**62)]),
    "overlaps": raw_header([], [tensor("a"), tensor("b", offset=64)]) + bytes(1000),
    "same name": raw_header([], [tensor("a"), tensor("a", offset=128)]) + bytes(1000),
}


@pytest.mark.parametrize("reason", HOSTILE)
def test_a_hostile_header_is_refused_at_once(tmp_path, reason):
    path = tmp_path / "model.gguf"
    path.write_bytes(HOSTILE[reason])
    begin = time.process_time()
    with pytest.raises(ModelError) as caught:
        read_header(path)
    assert reason in caught.value.message
    assert caught.value.hint
    assert time.process_time() - begin < 1


@pytest.mark.parametrize(("version", "words"), [(1, "version 1 of GGUF"), (0x03000000, "big-endian")])
def test_other_versions_are_refused(tmp_path, version, words):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", version, 0, 0))
    with pytest.raises(ModelError, match=words):
        read_header(path)


def test_a_file_is_known_by_its_first_bytes(tmp_path):
    _, path = tiny_gguf(tmp_path)
    blob = path.rename(tmp_path / "sha256-0123")
    assert has_gguf_magic(blob)
    assert not has_gguf_magic(tmp_path / "original" / "config.json")
    assert not has_gguf_magic(tmp_path / "nowhere")
