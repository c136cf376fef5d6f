"""Versions before they have a number: how each came to be."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Required, TypedDict, Unpack

from ouroboros.domain.config import TrainingConfig, UpdateConfig
from ouroboros.domain.names import AdapterId
from ouroboros.domain.records import Lesson, MergedFrom, Version
from ouroboros.domain.training import TrainingReport
from ouroboros.domain.verdict import Verdict
from ouroboros.domain.weights import AdapterFiles


@dataclass(frozen=True, slots=True)
class AppliedFeedback:
    """Feedback that a version learned: the journal's events after `since`, up to `to`."""

    since: int
    to: int
    lessons: tuple[Lesson, ...] = ()
    update: UpdateConfig | None = None


class VersionMetadata(TypedDict, total=False):
    """How a version was made, for its row; `events` is the last journal event that it learned from."""

    cause: Required[str]
    training: TrainingConfig | None
    report: TrainingReport | None
    events: int | None
    taught: AppliedFeedback | None
    verdict: Verdict | None
    merged: MergedFrom | None
    replaces: int | None


def draft(
    adapter: AdapterId, files: AdapterFiles, parent: int | None, **made: Unpack[VersionMetadata]
) -> Version:
    """A version that has no number yet, and no origin."""
    taught, events = made.get("taught"), made.get("events")
    now = datetime.now(UTC)
    return Version(
        adapter,
        0,
        files.digest,
        len(files.weights),
        parent,
        made["cause"],
        now,
        training=made.get("training"),
        report=made.get("report"),
        events=events,
        update=taught.update if taught else None,
        lessons=taught.lessons if taught else (),
        verdict=made.get("verdict"),
        since=taught.since if taught else events and events - 1,
        merged=made.get("merged"),
        replaces=made.get("replaces"),
    )
