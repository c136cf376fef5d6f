"""Jobs: trainings in progress, so that a crash loses only the steps since the last checkpoint.

A job is a record and a checkpoint blob; both are removed once the version is stored.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256

from ouroboros.domain.errors import Conflict, NotFound, StoreError
from ouroboros.domain.names import AdapterId
from ouroboros.domain.training import Job
from ouroboros.registry.codec import decode, encode
from ouroboros.registry.leases import Leases
from ouroboros.registry.paging import read_records
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.metadata.base import Fenced, Guard, MetadataStore, Record

JOBS = "jobs"
_FOLDER = "checkpoints/"


class JobStore:
    """The jobs of a store, and their checkpoints. Methods block.

    While the program holds an adapter's lease, what it writes to the adapter's jobs is fenced.
    """

    def __init__(self, metadata: MetadataStore, blobs: BlobStore, leases: Leases | None = None) -> None:
        self._metadata = metadata
        self._blobs = blobs
        self._leases = leases

    def add(self, job: Job, *guards: Guard) -> Job:
        """Store a new job. Raises `Fenced` unless the `guards` hold."""
        self._metadata.put(JOBS, job.id, encode(job), expected=0, guards=guards)
        return job

    def get(self, id: str) -> Job:
        record = self._metadata.get(JOBS, id)
        if record is None:
            raise NotFound(f"There is no job {id!r}.", hint="List them with: ouroboros jobs")
        return decode(Job, record.value, f"job {id!r}")

    def read_all(self, adapter: AdapterId | None = None) -> list[Job]:
        """Return the unfinished jobs, of one adapter or of all. Damaged ones are left out."""
        prefix = f"{adapter}#" if adapter else ""
        jobs = filter(None, map(_read_job, read_records(self._metadata, JOBS, prefix)))
        return [job for job in jobs if adapter in (None, job.adapter)]

    def update(self, id: str, change: Callable[[Job], Job]) -> Job:
        """Replace a job by `change(job)`, and retry if another writer was faster.

        Raises `Fenced` if this program lost the lease of the job's adapter.
        """
        return self._replace(id, change, fenced=True)

    def _replace(self, id: str, change: Callable[[Job], Job], *, fenced: bool) -> Job:
        while True:
            record = self._metadata.get(JOBS, id)
            if record is None:
                return change(self.get(id))
            job = decode(Job, record.value, f"job {id!r}")
            guards = self._leases.guards(job.adapter) if self._leases and fenced else ()
            changed = change(job)
            try:
                self._metadata.put(JOBS, id, encode(changed), expected=record.revision, guards=guards)
            except Fenced:
                raise
            except Conflict:
                continue
            return changed

    def save_checkpoint(self, id: str, state: bytes, step: int, steps: int) -> None:
        """Store a checkpoint, and delete the one before it."""
        key = f"{_FOLDER}{sha256(state).hexdigest()}"
        before = self.get(id).checkpoint
        self._blobs.put(key, state)
        try:
            self.update(id, lambda job: replace(job, checkpoint=key, step=step, steps=steps))
        except (Fenced, NotFound):
            self._delete_unless_used(key)
            raise
        self._delete_unless_used(before)

    def load_checkpoint(self, job: Job) -> bytes:
        """Return a job's last checkpoint; empty if there is none."""
        try:
            return self._blobs.get(job.checkpoint) if job.checkpoint else b""
        except NotFound:
            return b""

    def restart(self, id: str) -> None:
        """Drop a job's checkpoint, so that its next run starts from the first step."""
        before = self.get(id).checkpoint
        self._replace(id, lambda job: replace(job, checkpoint=None, parent=None, step=0), fenced=False)
        self._delete_unless_used(before)

    def remove(self, id: str) -> None:
        """Remove a job and its checkpoint."""
        record = self._metadata.get(JOBS, id)
        if record is not None:
            with suppress(Conflict):
                self._metadata.delete(JOBS, id, expected=record.revision)
            self._delete_unless_used(decode(Job, record.value, f"job {id!r}").checkpoint)

    def remove_unused_checkpoints(self) -> list[str]:
        """Remove checkpoints that no job refers to, which a crash between two writes can leave."""
        used = {job.checkpoint for job in self.read_all()}
        unused = [key for key in self._blobs.list(_FOLDER) if key not in used]
        for key in unused:
            self._blobs.delete(key)
        return unused

    def _delete_unless_used(self, key: str | None) -> None:
        if key is not None and key not in {job.checkpoint for job in self.read_all()}:
            self._blobs.delete(key)


def _read_job(record: Record) -> Job | None:
    try:
        return decode(Job, record.value, f"job {record.key!r}")
    except StoreError:
        return None
