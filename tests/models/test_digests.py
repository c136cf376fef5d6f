"""Digests cover whole files, and are remembered for as long as a file stays as it is."""

import hashlib
import os

import pytest

from ouroboros.models import digests
from ouroboros.models.digests import file_digest, weights_digest


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once."""
    monkeypatch.setattr(digests, "_SETTLED", -1)


def test_the_digest_of_small_weights_is_that_of_older_releases(cache, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"content")
    assert weights_digest([path]) == hashlib.sha256(b"model.safetensors:7;content").hexdigest()


def test_one_byte_anywhere_in_a_large_file_counts(cache, tmp_path, settled):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.truncate(70 << 20)
    before = weights_digest([path])
    with path.open("r+b") as file:
        file.seek((65 << 20) + 12345)
        file.write(b"\x01")
    assert weights_digest([path]) != before


def test_a_digest_is_computed_once(cache, tmp_path, settled, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    before = file_digest(path)
    monkeypatch.setattr(digests, "hash_file", lambda path: pytest.fail("read again"))
    assert file_digest(path) == before


def test_a_file_with_its_old_time_put_back_is_read_again(cache, tmp_path, settled):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    before, stat = file_digest(path), path.stat()
    path.write_bytes(b"abd")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file_digest(path) != before


def test_a_file_changed_just_now_is_not_remembered(cache, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    file_digest(path)
    assert not (cache.parent / "digests").exists()


def test_a_damaged_entry_is_ignored(cache, tmp_path, settled):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    before = file_digest(path)
    (entry,) = (cache.parent / "digests").iterdir()
    for text in ["", "[]", "{}", '{"stamps": 1}']:
        entry.write_text(text)
        assert file_digest(path) == before


def test_a_cache_that_cannot_be_written_costs_no_answer(tmp_path, settled, monkeypatch):
    (tmp_path / "file").write_bytes(b"abc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert file_digest(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()
