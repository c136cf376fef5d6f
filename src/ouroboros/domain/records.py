"""What the registry remembers: adapters and their versions."""

from dataclasses import dataclass
from datetime import datetime

from ouroboros.domain.base_model import Fingerprint
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.training import TrainingReport


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable set of weights of an adapter, and how it came to be.

    `digest` addresses its files; `size` is the weight file's bytes. `parent` is the version it was trained
    from, `events` the last journal event it has learned.
    """

    adapter: AdapterId
    number: int
    digest: str
    size: int
    parent: int | None
    cause: str
    created_at: datetime
    training: TrainingConfig | None = None
    report: TrainingReport | None = None
    events: int | None = None

    @property
    def ref(self) -> VersionRef:
        return VersionRef(self.adapter, self.number)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A task's named line of versions; `head` is the one being served."""

    id: AdapterId
    config: AdapterConfig
    base: Fingerprint
    base_name: str
    head: int
    created_at: datetime
