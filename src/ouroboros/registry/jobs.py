"""Jobs: trainings under way, so that a crash costs the steps since the last checkpoint and no more.

A record and a blob for each; both are gone once the version is there, which is then the record of it.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256

from ouroboros.domain.errors import Conflict, NotFound
from ouroboros.domain.names import AdapterId
from ouroboros.domain.training import Job
from ouroboros.registry.codec import decode, encode
from ouroboros.registry.paging import read_records
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.metadata.base import MetadataStore

JOBS = "jobs"
_FOLDER = "checkpoints/"


class Jobs:
    """Methods block."""

    def __init__(self, metadata: MetadataStore, blobs: BlobStore) -> None:
        self._metadata = metadata
        self._blobs = blobs

    def open(self, job: Job) -> Job:
        """Write a new job down."""
        self._metadata.put(JOBS, job.id, encode(job), expected=0)
        return job

    def get(self, id: str) -> Job:
        record = self._metadata.get(JOBS, id)
        if record is None:
            raise NotFound(f"There is no job {id!r}.", hint="See those there are with: ouroboros jobs")
        return decode(Job, record.value, f"job {id!r}")

    def all(self, adapter: AdapterId | None = None) -> list[Job]:
        """Jobs that are not done, of one adapter or all."""
        prefix = f"{adapter}#" if adapter else ""
        found = [
            decode(Job, r.value, f"job {r.key!r}") for r in read_records(self._metadata, JOBS, prefix)
        ]
        return [job for job in found if adapter in (None, job.adapter)]

    def change(self, id: str, change: Callable[[Job], Job]) -> Job:
        """Write what `change` makes of a job."""
        while True:
            record = self._metadata.get(JOBS, id)
            if record is None:
                return change(self.get(id))
            changed = change(decode(Job, record.value, f"job {id!r}"))
            with suppress(Conflict):
                self._metadata.put(JOBS, id, encode(changed), expected=record.revision)
                return changed

    def save(self, id: str, state: bytes, step: int, steps: int) -> None:
        """Keep a checkpoint instead of the last one."""
        key = f"{_FOLDER}{sha256(state).hexdigest()}"
        before = self.get(id).checkpoint
        self._blobs.put(key, state)
        self.change(id, lambda job: replace(job, checkpoint=key, step=step, steps=steps))
        self._drop(before)

    def state(self, job: Job) -> bytes:
        """A job's last checkpoint; empty if there is none."""
        try:
            return self._blobs.get(job.checkpoint) if job.checkpoint else b""
        except NotFound:
            return b""

    def restart(self, id: str) -> None:
        """Let a job begin anew when it runs next."""
        before = self.get(id).checkpoint
        self.change(id, lambda job: replace(job, checkpoint=None, parent=None, step=0))
        self._drop(before)

    def close(self, id: str) -> None:
        """Remove a job and its checkpoint."""
        record = self._metadata.get(JOBS, id)
        if record is not None:
            with suppress(Conflict):
                self._metadata.delete(JOBS, id, expected=record.revision)
            self._drop(decode(Job, record.value, f"job {id!r}").checkpoint)

    def collect(self) -> list[str]:
        """Remove checkpoints that no job refers to: their program died between two writes."""
        used = {job.checkpoint for job in self.all()}
        unused = [key for key in self._blobs.list(_FOLDER) if key not in used]
        for key in unused:
            self._blobs.delete(key)
        return unused

    def _drop(self, key: str | None) -> None:
        if key is not None and key not in {job.checkpoint for job in self.all()}:
            self._blobs.delete(key)
