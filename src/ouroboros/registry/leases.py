"""One writer per adapter, across processes: a lease that its holder renews, and that ends with it.

A lease is a courtesy: it keeps two programs from training the same adapter at once, one of them for
nothing. What is right does not hang on it; heads move by compare-and-set.
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
LASTS = timedelta(seconds=30)
"""Without being renewed. On the holder's own machine its death is seen at once."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who writes to an adapter, and until when. `place` is a machine, `process` a number there."""

    token: str
    place: str
    process: int
    started: str
    until: datetime

    @property
    def over(self) -> bool:
        if self.until <= datetime.now(UTC):
            return True
        return self.place == _place() and _started(self.process) != self.started


class Leases:
    """The leases of one holder. Methods block."""

    def __init__(self, metadata: MetadataStore) -> None:
        self._metadata = metadata
        self._token = uuid.uuid4().hex

    def take(self, adapter: AdapterId) -> bool:
        """Take the lease, or renew it; False while another has it."""
        record = self._metadata.get(LEASES, adapter.name)
        if record is not None:
            lease = decode(Lease, record.value, f"the lease of {adapter}")
            if lease.token != self._token and not lease.over:
                return False
        try:
            revision = record.revision if record else 0
            self._metadata.put(LEASES, adapter.name, encode(self._lease()), expected=revision)
        except Conflict:
            return False
        return True

    def release(self, adapter: AdapterId) -> None:
        """Let the lease go, if it is still ours."""
        record = self._metadata.get(LEASES, adapter.name)
        if record is not None and record.value["token"] == self._token:
            with suppress(Conflict):
                self._metadata.delete(LEASES, adapter.name, expected=record.revision)

    def is_held(self, adapter: AdapterId) -> bool:
        """Whether anybody is writing to the adapter."""
        record = self._metadata.get(LEASES, adapter.name)
        return record is not None and not decode(Lease, record.value, f"the lease of {adapter}").over

    def _lease(self) -> Lease:
        process = os.getpid()
        until = datetime.now(UTC) + LASTS
        return Lease(self._token, _place(), process, _started(process), until)


def _place() -> str:
    """This machine, and the space in which its process numbers mean something."""
    try:
        space = str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        space = ""
    return f"{platform.node()}/{space}"


def _started(process: int) -> str:
    """When a process of this machine was started; empty if there is none. Numbers are used again."""
    try:
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "" if Path("/proc/self/stat").exists() else _answers(process)
    return "" if words[0] in "ZX" else words[19]


def _answers(process: int) -> str:
    """Where there is no /proc: whether there is such a process."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "there"
    return "there"
