"""Version files as blobs, shared by all versions with the same digest, and their removal.

Each digest is a folder of two blobs that PEFT and others read unchanged. The same weights may be stored
again while a sweep removes them, so both sides announce themselves before they look:

- a sweep marks its digests, and only then reads which of them the version rows refer to;
- a writer writes its version row, and only then looks for a mark.

Whichever comes second sees the other. The writer waits until the mark is gone and puts its blobs once
more, which is cheap if they still exist. A sweep that does not end may only be stopped, and would go on
deleting later: the writer then stores its blobs in another folder, the next *generation* of the digest,
which the stopped sweep does not know.
"""

import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from ouroboros.domain.errors import Conflict, NotFound, StoreError
from ouroboros.domain.weights import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles
from ouroboros.registry.paging import read_records
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.metadata.base import MetadataStore, Record

SWEEPS, CONDEMNED, GENERATIONS = "sweeps", "condemned", "generations"
_FOLDER, _DOT = "adapters/", "."
_SWEEP_TIMEOUT = timedelta(minutes=1)
"""Writers do not wait longer for a sweep: they use another folder."""


class WeightStore:
    """The files of all versions, by digest."""

    def __init__(self, metadata: MetadataStore, blobs: BlobStore) -> None:
        self._metadata = metadata
        self._blobs = blobs

    def put(self, files: AdapterFiles) -> None:
        """Make both files durable unless they are stored; the config comes last."""
        self._put_into(self._folder(files.digest), files)

    def secure(self, files: AdapterFiles) -> None:
        """Make sure that no sweep removes `files`; call this after their row is written."""
        while (mark := self._metadata.get(SWEEPS, files.digest)) is not None:
            if _age(mark) > _SWEEP_TIMEOUT:
                self._evade_sweep(files, mark)
                return
            time.sleep(0.01)
        self.put(files)

    def get(self, digest: str, what: str) -> AdapterFiles:
        """The files, checked against their digest; `what` names them in errors."""
        try:
            files = self._read_from(f"{_FOLDER}{digest}/")
        except NotFound:
            files = self._read_generation(digest, what)
        if files.digest != digest:
            raise _damage_error(what, "their digest does not match")
        return files

    def list_digests(self) -> Iterator[str]:
        """The digests under which anything is stored, in order."""
        last = ""
        for key in self._blobs.list(_FOLDER):
            digest = key.split("/")[1].partition(_DOT)[0]
            if digest != last:
                yield digest
            last = digest

    def sweep(self, digests: Collection[str], used: Callable[[], set[str]]) -> list[str]:
        """Remove those of `list_digests` that are not among `used()`; returns the removed ones."""
        token = uuid.uuid4().hex
        marked = [digest for digest in digests if self._mark(digest, token)]
        # The folders of today: if this is stopped now and goes on much later, writers use others.
        folders = {digest: self._list_folders(digest) for digest in marked}
        try:
            unused = sorted(set(marked) - used())
            for digest in unused:
                for folder in folders[digest]:
                    self._blobs.delete(folder + CONFIG_FILE)
                    self._blobs.delete(folder + WEIGHTS_FILE)
            return unused
        finally:
            for digest in marked:
                self._unmark(digest, token)

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

    def _mark(self, digest: str, token: str) -> bool:
        """Announce a sweep of a digest; False if another one is under way."""
        mark = self._metadata.get(SWEEPS, digest)
        if mark is not None:
            if _age(mark) <= _SWEEP_TIMEOUT:
                return False
            # The sweep before this one may go on at any time: later writers must use another folder.
            self._set_generation(digest, self._generation(digest) + 1)
        value = {"at": datetime.now(UTC).isoformat(), "token": token}
        try:
            self._metadata.put(SWEEPS, digest, value, expected=mark.revision if mark else 0)
        except Conflict:
            return False
        return True

    def _unmark(self, digest: str, token: str) -> None:
        mark = self._metadata.get(SWEEPS, digest)
        if mark is not None and mark.value.get("token") == token:
            with suppress(Conflict):  # another took it for dead
                self._metadata.delete(SWEEPS, digest, expected=mark.revision)

    def _evade_sweep(self, files: AdapterFiles, mark: Record) -> None:
        """Store files where a sweep that may only be stopped does not delete them."""
        digest = files.digest
        number = self._generation(digest) + 1
        self._put_into(_folder_of(digest, number), files)
        self._set_generation(digest, number)
        with suppress(Conflict):
            self._metadata.delete(SWEEPS, digest, expected=mark.revision)

    def _generation(self, digest: str) -> int:
        record = self._metadata.get(GENERATIONS, digest)
        return record.value["generation"] if record else 0

    def _set_generation(self, digest: str, number: int) -> None:
        """Have writers use the folder with this number, unless they use a later one already."""
        while (record := self._metadata.get(GENERATIONS, digest)) is None or (
            record.value["generation"] < number
        ):
            with suppress(Conflict):  # another writer of the same files was as fast
                expected = record.revision if record else 0
                self._metadata.put(GENERATIONS, digest, {"generation": number}, expected=expected)

    def _folder(self, digest: str) -> str:
        """Where a digest is stored today."""
        return _folder_of(digest, self._generation(digest))

    def _list_folders(self, digest: str) -> list[str]:
        return [_folder_of(digest, number) for number in range(self._generation(digest) + 1)]

    def _put_into(self, folder: str, files: AdapterFiles) -> None:
        self._blobs.put(folder + WEIGHTS_FILE, files.weights)
        self._blobs.put(folder + CONFIG_FILE, files.config)

    def _read_from(self, folder: str) -> AdapterFiles:
        return AdapterFiles(*(self._blobs.get(folder + file) for file in (CONFIG_FILE, WEIGHTS_FILE)))

    def _read_generation(self, digest: str, what: str) -> AdapterFiles:
        """Read files that are not in the first folder of their digest."""
        folder = self._folder(digest)
        try:
            return self._read_from(folder)
        except NotFound:
            raise _damage_error(what, "a file is missing") from None


def _folder_of(digest: str, generation: int) -> str:
    return f"{_FOLDER}{digest}{_DOT}{generation}/" if generation else f"{_FOLDER}{digest}/"


def _age(mark: Record) -> timedelta:
    """How long ago a sweep was announced; a mark that was damaged is as old as can be."""
    try:
        return datetime.now(UTC) - datetime.fromisoformat(mark.value["at"])
    except (KeyError, ValueError, TypeError):
        return timedelta.max


def _damage_error(what: str, how: str) -> StoreError:
    return StoreError(
        f"The stored weights of {what} are damaged: {how}.",
        hint="Restore them from a backup, or roll back to another version.",
    )
