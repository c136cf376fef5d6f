"""Any fault of the disk at any time raises `StoreError`, leaves no partial blob, and a retry works."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ouroboros.domain.errors import NotFound, StoreError
from ouroboros.stores.blobs.files import FileBlobs

CALLS = ("open", "mkdir", "write", "fsync", "link", "stat")
DATA = b"0123456789" * 20_000


class FailingSystemCalls:
    """Counts the system calls of the store, and lets the one numbered `fails_at` fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int = 0) -> None:
        self.calls = 0
        self.fails_at = 0
        self._errno = number
        for name in CALLS:
            monkeypatch.setattr(os, name, self._count_calls(getattr(os, name)))

    def _count_calls(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def call_or_fail(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.fails_at:
                raise OSError(self._errno, os.strerror(self._errno))
            return call(*args, **kwargs)

        return call_or_fail


def _count_calls_of_put(folder: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        store = FileBlobs(folder)
        disk = FailingSystemCalls(patch)
        store.put("a/b/c", DATA)
        return disk.calls


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EIO, "disk reports an error"),
        (errno.EACCES, "may not write"),
        (errno.EROFS, "read-only"),
    ],
)
def test_put_survives_a_fault_at_any_system_call(tmp_path: Path, number: int, words: str) -> None:
    calls = _count_calls_of_put(tmp_path / "counted")
    assert calls > 10
    for fails_at in range(1, calls + 1):
        store = FileBlobs(tmp_path / str(fails_at))
        with pytest.MonkeyPatch.context() as patch:
            disk = FailingSystemCalls(patch, number)
            disk.fails_at = fails_at
            with pytest.raises(StoreError, match=words) as caught:
                store.put("a/b/c", DATA)
            assert caught.value.hint
        assert _is_whole_or_absent(store)
        assert not list((tmp_path / str(fails_at) / ".tmp").iterdir())
        store.put("a/b/c", DATA)
        assert store.get("a/b/c") == DATA


def test_creating_a_store_survives_a_fault_at_any_system_call(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        disk = FailingSystemCalls(patch)
        FileBlobs(tmp_path / "counted" / "deep")
    for fails_at in range(1, disk.calls + 1):
        folder = tmp_path / str(fails_at) / "deep"
        with pytest.MonkeyPatch.context() as patch:
            faulty = FailingSystemCalls(patch, errno.EIO)
            faulty.fails_at = fails_at
            with pytest.raises(StoreError, match="open the blob store"):
                FileBlobs(folder)
        FileBlobs(folder).put("a", b"1")


def test_a_failed_read_or_delete_raises_store_error(tmp_path: Path) -> None:
    store = FileBlobs(tmp_path)
    store.put("a/b", DATA)
    for use in (store.get, store.delete):
        with pytest.MonkeyPatch.context() as patch:
            disk = FailingSystemCalls(patch, errno.EIO)
            disk.fails_at = 1
            with pytest.raises(StoreError, match="disk reports an error"):
                use("a/b")
    assert store.get("a/b") == DATA


def test_a_file_size_limit_raises_store_error(tmp_path: Path) -> None:
    """The kernel itself cuts the write short."""
    code = (
        "import resource, signal, sys, pathlib\n"
        "from ouroboros.stores.blobs.files import FileBlobs\n"
        "from ouroboros.domain.errors import StoreError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "store = FileBlobs(pathlib.Path(sys.argv[1]))\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.RLIM_INFINITY}))\n"
        "try:\n    store.put('a', bytes(200_000))\n"
        "except StoreError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": "src"},
        check=True,
    )
    assert "larger than the limit" in done.stdout
    assert list(FileBlobs(tmp_path).list()) == []
    assert not list((tmp_path / ".tmp").iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_raises_store_error(tmp_path: Path) -> None:
    store = FileBlobs(tmp_path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="may not write"):
            store.put("a", b"1")
    finally:
        tmp_path.chmod(0o700)


def test_a_file_in_place_of_the_folder_is_left_unchanged(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError):
        FileBlobs(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def _is_whole_or_absent(store: FileBlobs) -> bool:
    try:
        return store.get("a/b/c") == DATA
    except NotFound:
        return True
