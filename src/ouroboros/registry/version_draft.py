"""Drafts of versions: everything but the number, which the registry assigns."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Required, TypedDict, Unpack

from ouroboros.domain.config import TrainingConfig, UpdateConfig
from ouroboros.domain.names import AdapterId
from ouroboros.domain.records import Adapter, Lesson, MergedFrom, Version
from ouroboros.domain.training import TrainingReport
from ouroboros.domain.verdict import Verdict
from ouroboros.domain.weights import AdapterFiles


@dataclass(frozen=True, slots=True)
class AppliedFeedback:
    """Feedback that a version learned: the journal events after `since`, up to `to`."""

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
    applied: AppliedFeedback | None
    verdict: Verdict | None
    merged: MergedFrom | None
    replaces: int | None


class AdapterMetadata(TypedDict, total=False):
    """Details of a new adapter: the `seed` that its weights were drawn from, the verdict on a merge, and
    the `parents` of a merge as they were when they were read."""

    seed: int | None
    description: str
    verdict: Verdict | None
    parents: Sequence[Adapter]


def draft_version(
    adapter: AdapterId, files: AdapterFiles, parent: int | None, **metadata: Unpack[VersionMetadata]
) -> Version:
    """Make a version without its number and its origin."""
    applied, events = metadata.get("applied"), metadata.get("events")
    now = datetime.now(UTC)
    return Version(
        adapter,
        0,
        files.digest,
        len(files.weights),
        parent,
        metadata["cause"],
        now,
        training=metadata.get("training"),
        report=metadata.get("report"),
        events=events,
        update=applied.update if applied else None,
        lessons=applied.lessons if applied else (),
        verdict=metadata.get("verdict"),
        since=applied.since if applied else events and events - 1,
        merged=metadata.get("merged"),
        replaces=metadata.get("replaces"),
    )
