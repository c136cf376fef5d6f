"""Version files as blobs, shared by all versions with the same digest, and their removal.

Each digest is a folder of two blobs that PEFT and others read unchanged. The same weights may be stored
again while a sweep removes them, so both sides announce themselves before they look:

- a sweep marks its digests, and only then reads which of them the version rows refer to;
- a writer writes its version row, and only then looks for a mark.

Whichever comes second sees the other. The writer waits until the mark is gone and puts its blobs once
more, which is cheap if they still exist.
"""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from ouroboros.domain.errors import Conflict, NotFound, StoreError
from ouroboros.domain.weights import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles
from ouroboros.registry.paging import read_records
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.metadata.base import MetadataStore

SWEEPS, CONDEMNED = "sweeps", "condemned"
_FOLDER = "adapters/"
_SWEEP_TIMEOUT = timedelta(minutes=1)
"""A sweep that takes longer is taken for dead, and its mark is removed."""


class WeightStore:
    """The files of all versions, by digest."""

    def __init__(self, metadata: MetadataStore, blobs: BlobStore) -> None:
        self._metadata = metadata
        self._blobs = blobs

    def put(self, files: AdapterFiles) -> None:
        """Make both files durable unless they are stored; the config comes last."""
        digest = files.digest
        self._blobs.put(_key(digest, WEIGHTS_FILE), files.weights)
        self._blobs.put(_key(digest, CONFIG_FILE), files.config)

    def secure(self, files: AdapterFiles) -> None:
        """Make sure that no sweep removes `files`; call this after their row is written."""
        while self._is_being_swept(files.digest):
            time.sleep(0.01)
        self.put(files)

    def get(self, digest: str, what: str) -> AdapterFiles:
        """The files, checked against their digest; `what` names them in errors."""
        try:
            contents = [self._blobs.get(_key(digest, file)) for file in (CONFIG_FILE, WEIGHTS_FILE)]
        except NotFound:
            raise _damaged(what, "a file is missing") from None
        files = AdapterFiles(*contents)
        if files.digest != digest:
            raise _damaged(what, "their digest does not match")
        return files

    def list_digests(self) -> Iterator[str]:
        """The digests under which anything is stored, in order."""
        last = ""
        for key in self._blobs.list(_FOLDER):
            digest = key.split("/")[1]
            if digest != last:
                yield digest
            last = digest

    def sweep(self, digests: Collection[str], used: Callable[[], set[str]]) -> list[str]:
        """Remove those of `list_digests` that are not among `used()`; returns the removed ones."""
        marked = [digest for digest in digests if self._mark(digest)]
        try:
            unused = sorted(set(marked) - used())
            for digest in unused:
                self._blobs.delete(_key(digest, CONFIG_FILE))
                self._blobs.delete(_key(digest, WEIGHTS_FILE))
            return unused
        finally:
            for digest in marked:
                self._unmark(digest)

    def remove_unused(self, used: Callable[[], set[str]], grace: timedelta, now: datetime) -> list[str]:
        """Remove weights that have been unused for at least `grace`; returns their digests.

        The time counts from the first call that finds them unused, so that readers can finish.
        """
        unused = set(self.list_digests()) - used()
        since = self._condemn(unused, now)
        removed = self.sweep([digest for digest in unused if now - since[digest] >= grace], used)
        self._pardon(removed)
        return removed

    def _condemn(self, unused: set[str], now: datetime) -> dict[str, datetime]:
        """Return since when each digest has been unused; forget those that are in use again."""
        known = {
            r.key: datetime.fromisoformat(r.value["since"])
            for r in read_records(self._metadata, CONDEMNED)
        }
        self._pardon(known.keys() - unused)
        for digest in unused - known.keys():
            with suppress(Conflict):  # another process collects too
                self._metadata.put(CONDEMNED, digest, {"since": now.isoformat()}, expected=0)
        return dict.fromkeys(unused, now) | known

    def _pardon(self, digests: Collection[str]) -> None:
        for digest in digests:
            with suppress(Conflict):
                self._metadata.delete(CONDEMNED, digest, expected=1)

    def _mark(self, digest: str) -> bool:
        if self._is_being_swept(digest):
            return False
        try:
            self._metadata.put(SWEEPS, digest, {"at": datetime.now(UTC).isoformat()}, expected=0)
        except Conflict:
            return False
        return True

    def _unmark(self, digest: str) -> None:
        with suppress(Conflict):  # taken for dead and cleared by another
            self._metadata.delete(SWEEPS, digest, expected=1)

    def _is_being_swept(self, digest: str) -> bool:
        mark = self._metadata.get(SWEEPS, digest)
        if mark is None:
            return False
        if datetime.now(UTC) - datetime.fromisoformat(mark.value["at"]) < _SWEEP_TIMEOUT:
            return True
        self._unmark(digest)
        return False


def _key(digest: str, file: str) -> str:
    return f"{_FOLDER}{digest}/{file}"


def _damaged(what: str, how: str) -> StoreError:
    return StoreError(
        f"The stored weights of {what} are damaged: {how}.",
        hint="Restore them from a backup, or roll back to another version.",
    )
