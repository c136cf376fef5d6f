"""What the registry remembers: adapters and their versions."""

from dataclasses import dataclass
from datetime import datetime

from ouroboros.domain.base_model import Fingerprint
from ouroboros.domain.config import AdapterConfig, TrainingConfig, UpdateConfig
from ouroboros.domain.merging import MergeRecipe
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.training import TrainingReport
from ouroboros.domain.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one event of the journal came to, in words a user reads; whether it was learned at all."""

    event: int
    words: str
    learned: bool = True


@dataclass(frozen=True, slots=True)
class MergedFrom:
    """The versions that a merge was made from, in their order, and how.

    `journals` is where the journal of each stood then: what was pinned later is not taken over.
    """

    versions: tuple[VersionRef, ...]
    recipe: MergeRecipe
    rank: int | None = None
    journals: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """What a version was made on and with: the adapter's shape, the base, releases of software.

    A first version has the `seed` that its weights were drawn from.
    """

    config: AdapterConfig
    base: Fingerprint
    base_name: str
    software: tuple[tuple[str, str], ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable set of weights of an adapter, and how it came to be.

    `digest` addresses its files; `size` is the weight file's bytes. `parent` is the version it was
    trained from; a merge has its parents in `merged`. It learned from the journal's events after
    `since`, up to `events`: a training from its examples there, an update from the judgements, with one
    of `lessons` for each and the `update` that worked them in. `replaces` is the version in whose place
    it was made again, without what was to be forgotten. The `verdict` is the gate's; a refused version
    was never served on its account.
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
    update: UpdateConfig | None = None
    lessons: tuple[Lesson, ...] = ()
    verdict: Verdict | None = None
    since: int | None = None
    merged: MergedFrom | None = None
    origin: Origin | None = None
    replaces: int | None = None

    @property
    def parents(self) -> tuple[VersionRef, ...]:
        """What it was made from: none, one, or those of a merge."""
        if self.parent is not None:
            return (VersionRef(self.adapter, self.parent),)
        return self.merged.versions if self.merged else ()

    @property
    def ref(self) -> VersionRef:
        return VersionRef(self.adapter, self.number)

    @property
    def learned(self) -> tuple[int, ...]:
        """The journal's events that this version learned, its ancestors' not counted."""
        if self.training is not None and self.events is not None:
            return (self.events,)
        return tuple(lesson.event for lesson in self.lessons if lesson.learned)

    @property
    def refused(self) -> bool:
        return self.verdict is not None and not self.verdict.promoted


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a version was promoted or refused, line by line."""

    version: Version
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Adapter:
    """A task's named line of versions; `head` is the one being served.

    `born` and `applied` are places in the journal: where it stood when the adapter was created, and up
    to where its feedback has been learned. `description` says what the task is, to find it by.
    """

    id: AdapterId
    config: AdapterConfig
    base: Fingerprint
    base_name: str
    head: int
    created_at: datetime
    born: int = 0
    applied: int = 0
    description: str = ""


@dataclass(frozen=True, slots=True)
class HeadMoved:
    """Another version was put in service: `after` instead of `before`.

    With `replayed`, feedback learned since `after` was made is to be learned again. `reason` is empty
    when somebody asked for it.
    """

    before: int
    after: int
    at: datetime
    replayed: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A journalled event. `lesson` and `version` are there once it has been learned.

    An event that teaches nothing (a critique, a duplicate, one over a limit) gives no new version:
    `version` is then the head as it was.
    """

    adapter: AdapterId
    event: int
    lesson: Lesson | None = None
    version: Version | None = None
