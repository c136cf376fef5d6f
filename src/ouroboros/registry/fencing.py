"""Fencing: a writer that lost its adapter, or that read what has been erased since, can write nothing.

The adapter's record holds two numbers that only grow:

- `epoch` grows with each taking of the adapter's lease, and with each erasure that affects the adapter.
  Whatever a holder writes is compared with the epoch that it took.
- `erasures` grows with each erasure alone. It guards what needs no lease, such as journalling.

Moving the head is a compare-and-set of that same record, so every store fences it at no cost. Other
writes carry a `Guard`.
"""

from contextlib import suppress

from ouroboros.domain.errors import Conflict
from ouroboros.domain.names import AdapterId
from ouroboros.domain.records import Adapter
from ouroboros.stores.metadata.base import Guard, Json, MetadataStore

ADAPTERS = "adapters"
EPOCH, ERASURES = "epoch", "erasures"


def epoch_guard(adapter: AdapterId, epoch: int) -> Guard:
    """The guard of a write by the holder who took the adapter's lease at `epoch`."""
    return Guard(ADAPTERS, adapter.name, EPOCH, epoch)


def erasure_guard(adapter: Adapter) -> Guard:
    """The guard of a write that is based on what `adapter` was when it was read.

    It does not hold either once the adapter is deleted.
    """
    return Guard(ADAPTERS, adapter.id.name, ERASURES, adapter.erasures)


def raise_epoch(metadata: MetadataStore, adapter: AdapterId, *, erasure: bool = False) -> int:
    """Fence all writers of an adapter; returns the new epoch. With `erasure`, fence journalling too."""
    while True:
        record = metadata.get(ADAPTERS, adapter.name)
        if record is None:
            return 0
        if is_tombstone(record.value):
            return record.value.get(EPOCH, 0)
        raised = {**record.value, EPOCH: record.value.get(EPOCH, 0) + 1}
        if erasure:
            raised[ERASURES] = record.value.get(ERASURES, 0) + 1
        with suppress(Conflict):
            metadata.put(ADAPTERS, adapter.name, raised, expected=record.revision)
            return raised[EPOCH]


def is_tombstone(record: Json) -> bool:
    """Whether an adapter's record is what its deletion left."""
    return "deleted" in record
