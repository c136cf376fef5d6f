"""Leases: one writer per adapter across processes. The holder renews its lease; its death ends it.

A lease keeps two programs from training the same adapter at once, one of them in vain. Each taking of it
raises the adapter's epoch, and what a holder writes is compared with the epoch that it took
(`registry/fencing.py`). So a holder that was stopped, and continues after another took its place, can
write nothing. Clocks decide only how long others wait.
"""

import os
import platform
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from ouroboros.domain.errors import Conflict
from ouroboros.domain.names import AdapterId
from ouroboros.domain.records import Adapter
from ouroboros.registry.codec import decode, encode
from ouroboros.registry.fencing import ADAPTERS, epoch_guard, raise_epoch
from ouroboros.stores.metadata.base import Guard, MetadataStore

LEASES = "leases"
DURATION = timedelta(seconds=30)
"""How long a lease lasts without renewal. On the holder's machine its death is noticed at once."""

CLOCK_ERROR = timedelta(minutes=10)
"""By how much the clock of another machine may be off before its leases are taken too early."""


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
        """Whether another program may take the lease: its time is over, or its holder has died."""
        return self.until <= datetime.now(UTC) or self.holder_died

    @property
    def holder_died(self) -> bool:
        """Whether the holder ran on this machine, and does not run any more."""
        return self.place == _this_machine() and _start_time(self.process) != self.started


class Leases:
    """The leases of one holder. Methods block."""

    def __init__(self, metadata: MetadataStore) -> None:
        self._metadata = metadata
        self._token = uuid.uuid4().hex
        self._epochs: dict[AdapterId, int] = {}
        self._first_seen: dict[AdapterId, tuple[Lease, float]] = {}

    def acquire(self, adapter: AdapterId) -> bool:
        """Acquire the lease and fence whoever held it before; returns False while another has it."""
        record = self._metadata.get(LEASES, adapter.name)
        if record is not None:
            lease = decode(Lease, record.value, f"the lease of {adapter}")
            if lease.token != self._token and not self._has_expired(adapter, lease):
                return False
        try:
            revision = record.revision if record else 0
            self._metadata.put(LEASES, adapter.name, encode(self._new_lease()), expected=revision)
        except Conflict:
            return False
        renewed = record is not None and record.value["token"] == self._token
        if not renewed or adapter not in self._epochs:
            self._epochs[adapter] = raise_epoch(self._metadata, adapter)
        self._first_seen.pop(adapter, None)
        return True

    def renew(self, adapter: AdapterId) -> bool:
        """Make the lease last; returns False if it is lost. What is lost is never taken back here: the
        epoch that its writes carry is over."""
        record = self._metadata.get(LEASES, adapter.name)
        if record is None or record.value["token"] != self._token:
            return False
        with suppress(Conflict):
            self._metadata.put(LEASES, adapter.name, encode(self._new_lease()), expected=record.revision)
            return True
        return False

    def guards(self, adapter: AdapterId) -> tuple[Guard, ...]:
        """The guard that this holder's writes carry; none while it does not hold the lease."""
        epoch = self._epochs.get(adapter)
        return () if epoch is None else (epoch_guard(adapter, epoch),)

    def require_unfenced(self, adapter: Adapter) -> None:
        """Raise `Fenced` if another took `adapter`, as it is stored now, since this holder did."""
        epoch = self._epochs.get(adapter.id)
        if epoch not in (None, adapter.epoch):
            raise epoch_guard(adapter.id, adapter.epoch).error()

    def require_current(self, adapter: AdapterId) -> None:
        """Raise `Fenced` if another took the adapter, or erased data of it, since this holder did."""
        record = self._metadata.get(ADAPTERS, adapter.name)
        for guard in self.guards(adapter):
            if not guard.holds(record.value if record else None):
                raise guard.error()

    def release(self, adapter: AdapterId) -> None:
        """Release the lease if this holder still has it."""
        self._epochs.pop(adapter, None)
        record = self._metadata.get(LEASES, adapter.name)
        if record is not None and record.value["token"] == self._token:
            with suppress(Conflict):
                self._metadata.delete(LEASES, adapter.name, expected=record.revision)

    def is_held(self, adapter: AdapterId) -> bool:
        """Whether anybody is writing to the adapter."""
        record = self._metadata.get(LEASES, adapter.name)
        return record is not None and not decode(Lease, record.value, f"the lease of {adapter}").expired

    def _has_expired(self, adapter: AdapterId, lease: Lease) -> bool:
        """Whether a lease of another holder is over.

        Clocks of two machines cannot be compared: the lease of another machine is over when it has not
        been renewed for its duration by this program's own clock.
        """
        if lease.place == _this_machine():
            return lease.expired
        seen, since = self._first_seen.setdefault(adapter, (lease, time.monotonic()))
        if seen != lease:
            self._first_seen[adapter] = (lease, time.monotonic())
            return False
        waited = timedelta(seconds=time.monotonic() - since)
        return waited >= DURATION or lease.until + CLOCK_ERROR <= datetime.now(UTC)

    def _new_lease(self) -> Lease:
        process = os.getpid()
        until = datetime.now(UTC) + DURATION
        return Lease(self._token, _this_machine(), process, _start_time(process), until)


@cache
def _this_machine() -> str:
    """Identify this machine, since it was started, and its namespace of process numbers."""
    try:
        space = str(Path("/proc/self/ns/pid").stat().st_ino)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        space = boot = ""
    return f"{platform.node()}/{space}/{boot}"


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
