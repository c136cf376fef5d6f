"""The records of the registry: adapters, their versions, and how each came to be."""

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
    """The outcome of one journal event, in words for the user; `learned` if the version learned it."""

    event: int
    words: str
    learned: bool = True


@dataclass(frozen=True, slots=True)
class MergedFrom:
    """The versions that a merge combines, in the order of the recipe's weights.

    `journals` holds the last event of each parent's journal at the time: later pins are not inherited.
    """

    versions: tuple[VersionRef, ...]
    recipe: MergeRecipe
    rank: int | None = None
    journals: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """What a version was made with: the adapter's config, the base, and releases of software.

    A first version has the `seed` of its initial weights.
    """

    config: AdapterConfig
    base: Fingerprint
    base_name: str
    software: tuple[tuple[str, str], ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable set of an adapter's weights, and how it came to be.

    digest    addresses the files; `size` is the weight file's bytes.
    parent    the version that it was trained from; a merge has its parents in `merged`.
    cause     why it was made, in words for the user.
    training  the config of a training, with its `report`.
    since     the version learned from journal events after this one, up to `events`: a training from
              the examples there, an update from the judgements.
    update    the config of an update from feedback, with one of `lessons` for each judgement.
    verdict   the gate's judgement; a refused version is stored, and the head stays.
    replaces  the version that this one was remade for, without the events to forget.
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
        """The versions it was made from: none, one, or those of a merge."""
        if self.parent is not None:
            return (VersionRef(self.adapter, self.parent),)
        return self.merged.versions if self.merged else ()

    @property
    def ref(self) -> VersionRef:
        """The version's name, such as tickets@3."""
        return VersionRef(self.adapter, self.number)

    @property
    def learned(self) -> tuple[int, ...]:
        """The journal events that this version learned, without its ancestors'."""
        if self.training is not None and self.events is not None:
            return (self.events,)
        return tuple(lesson.event for lesson in self.lessons if lesson.learned)

    @property
    def refused(self) -> bool:
        """Whether the gate refused it."""
        return self.verdict is not None and not self.verdict.promoted


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a version was promoted or refused, line by line."""

    version: Version
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Adapter:
    """A task's named line of versions; `head` is the number of the version being served.

    `born` and `applied` are numbers of journal events: the last one before the adapter was created, and
    the last one whose feedback has been learned. `description` describes the task, to route prompts by.
    `epoch` and `erasures` fence writers that were overtaken (`registry/fencing.py`).

    `head` is 0 while nothing is served: everything it had learned came from data that was erased.
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
    epoch: int = 0
    erasures: int = 0


@dataclass(frozen=True, slots=True)
class HeadMoved:
    """A rollback: the head moved from version `before` to `after`.

    With `replayed`, feedback learned since `after` was made is pending again. `reason` is empty when a
    user asked for the move.
    """

    before: int
    after: int
    at: datetime
    replayed: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Ticket:
    """The receipt for a journalled judgement; `lesson` and `version` are set once it is learned.

    An event that teaches nothing (a critique, a duplicate, one over a limit) makes no new version:
    `version` is then the unchanged head.
    """

    adapter: AdapterId
    event: int
    lesson: Lesson | None = None
    version: Version | None = None
