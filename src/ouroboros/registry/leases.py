"""Leases: one writer per adapter across processes. The holder renews its lease; its death ends it.

A lease is advisory: it keeps two programs from training the same adapter at once, one of them in vain.
Correctness does not depend on it, since heads move by compare-and-set.
"""

import os
import platform
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ouroboros.domain.errors import Conflict
from ouroboros.domain.names import AdapterId
from ouroboros.registry.codec import decode, encode
from ouroboros.stores.metadata.base import MetadataStore

LEASES = "leases"
DURATION = timedelta(seconds=30)
"""How long a lease lasts without renewal. On the holder's machine its death is noticed at once."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who writes to an adapter, and until when: process number `process` on the machine `place`."""

    token: str
    place: str
    process: int
    started: str
    until: datetime

    @property
    def expired(self) -> bool:
        if self.until <= datetime.now(UTC):
            return True
        return self.place == _this_machine() and _start_time(self.process) != self.started


class Leases:
    """The leases of one holder. Methods block."""

    def __init__(self, metadata: MetadataStore) -> None:
        self._metadata = metadata
        self._token = uuid.uuid4().hex

    def acquire(self, adapter: AdapterId) -> bool:
        """Acquire or renew the lease; returns False while another holder has it."""
        record = self._metadata.get(LEASES, adapter.name)
        if record is not None:
            lease = decode(Lease, record.value, f"the lease of {adapter}")
            if lease.token != self._token and not lease.expired:
                return False
        try:
            revision = record.revision if record else 0
            self._metadata.put(LEASES, adapter.name, encode(self._new_lease()), expected=revision)
        except Conflict:
            return False
        return True

    def release(self, adapter: AdapterId) -> None:
        """Release the lease if this holder still has it."""
        record = self._metadata.get(LEASES, adapter.name)
        if record is not None and record.value["token"] == self._token:
            with suppress(Conflict):
                self._metadata.delete(LEASES, adapter.name, expected=record.revision)

    def is_held(self, adapter: AdapterId) -> bool:
        """Whether anybody is writing to the adapter."""
        record = self._metadata.get(LEASES, adapter.name)
        return record is not None and not decode(Lease, record.value, f"the lease of {adapter}").expired

    def _new_lease(self) -> Lease:
        process = os.getpid()
        until = datetime.now(UTC) + DURATION
        return Lease(self._token, _this_machine(), process, _start_time(process), until)


def _this_machine() -> str:
    """Identify this machine and its namespace of process numbers."""
    try:
        space = str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        space = ""
    return f"{platform.node()}/{space}"


def _start_time(process: int) -> str:
    """Return when a process was started, as numbers are reused; empty if there is no such process."""
    try:
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "" if Path("/proc/self/stat").exists() else _is_alive(process)
    return "" if words[0] in "ZX" else words[19]


def _is_alive(process: int) -> str:
    """Without /proc: return "there" if there is such a process, else an empty string."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "there"
    return "there"
