"""Models are built once, whole or not at all, whatever happens meanwhile."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ouroboros.domain.errors import ModelError
from ouroboros.models import model_cache
from ouroboros.models.model_cache import get_or_build, is_whole, read_origin
from ouroboros.models.resolve import resolve_model
from tests.models.gguf_files import tiny_gguf


def build_one(folder: Path):
    (folder / "weights").write_bytes(b"abc")
    return {"name": "one"}


def test_a_model_is_built_once_and_recorded(cache):
    builds = []
    folder = get_or_build("one", lambda f: builds.append(f) or build_one(f))
    assert get_or_build("one", lambda f: builds.append(f) or build_one(f)) == folder == cache / "one"
    assert len(builds) == 1
    origin = read_origin(folder)
    assert origin is not None and origin["name"] == "one"
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert origin["files"] == {"weights": {"bytes": 3, "sha256": digest}}


def test_a_model_whose_files_have_other_sizes_is_built_again(cache):
    folder = get_or_build("one", build_one)
    (folder / "weights").write_bytes(b"ab")
    assert not is_whole(folder)
    get_or_build("one", build_one)
    assert (folder / "weights").read_bytes() == b"abc"


def test_a_build_that_fails_leaves_nothing(cache):
    def fail(folder: Path):
        build_one(folder)
        raise ModelError("no")

    with pytest.raises(ModelError, match="no"):
        get_or_build("one", fail)
    assert [f.name for f in cache.iterdir()] == [".lock-one"]
    assert get_or_build("one", build_one) == cache / "one"


def test_what_a_killed_program_left_is_removed(cache):
    (cache / ".building-one").mkdir(parents=True)
    (cache / ".building-one" / "half").write_bytes(b"x")
    folder = get_or_build("one", build_one)
    assert sorted(f.name for f in folder.iterdir()) == ["origin.json", "weights"]


@pytest.mark.parametrize("call", ["write_text", "rename"])
def test_a_full_disk_is_said_and_leaves_nothing(cache, monkeypatch, call):
    def fail(*_: object, **__: object):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, call, fail)
    with pytest.raises(ModelError, match="the disk is full") as caught:
        get_or_build("one", build_one)
    assert "XDG_CACHE_HOME" in caught.value.hint
    assert not any(f.is_dir() for f in cache.iterdir())


def test_a_disk_that_fills_while_weights_are_written(cache, tmp_path, monkeypatch):
    _, path = tiny_gguf(tmp_path)

    def fail(*_: object, **__: object):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ouroboros.models.gguf_convert._write_weights", fail)
    with pytest.raises(ModelError, match="the disk is full"):
        resolve_model(str(path))
    assert not any(f.is_dir() for f in cache.iterdir())


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="it cannot be written"):
        get_or_build("one", build_one)


def test_a_model_in_a_read_only_cache_is_used(cache, monkeypatch):
    folder = get_or_build("one", build_one)

    def refuse(*_: object, **__: object):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", refuse)
    assert get_or_build("one", build_one) == folder
    with pytest.raises(ModelError, match="it cannot be written") as caught:
        get_or_build("another", build_one)
    assert "XDG_CACHE_HOME" in caught.value.hint


PROGRAM = """
import sys
from ouroboros.models import gguf_convert, resolve
convert = gguf_convert.convert_gguf
def report(*arguments):
    print("converted", flush=True)
    return convert(*arguments)
gguf_convert.convert_gguf = report
print("ready", flush=True)
sys.stdin.readline()
print(resolve.resolve_model(sys.argv[1]), flush=True)
"""


def test_two_programs_that_convert_at_once_do_the_work_once(cache, tmp_path):
    _, path = tiny_gguf(tmp_path)
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for program in programs:
        assert program.stdout is not None and program.stdout.readline() == "ready\n"
    for program in programs:
        assert program.stdin is not None
        program.stdin.write("go\n")
        program.stdin.flush()
    output = [program.communicate()[0].split() for program in programs]
    folders = {lines[-1] for lines in output}
    assert sum(lines.count("converted") for lines in output) == 1
    assert len(folders) == 1
    assert is_whole(Path(folders.pop()))


def test_a_damaged_record_counts_as_none(cache):
    folder = get_or_build("one", build_one)
    for text in ["", "[]", "{}", json.dumps({"files": {"weights": 3}})]:
        (folder / model_cache.ORIGIN).write_text(text)
        assert not is_whole(folder)
