"""The family of versions: what each was made from, and which events it learned."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

from ouroboros.domain.errors import NotFound
from ouroboros.domain.events import ExamplesGiven, FeedbackGiven
from ouroboros.domain.names import VersionRef
from ouroboros.domain.records import Version
from ouroboros.registry.journal import Journalled
from ouroboros.registry.registry import Registry


def ancestors(registry: Registry, ref: VersionRef) -> list[Version]:
    """A version and everything it came from, through merges too; each once, parents before children.

    What has been deleted since is left out.
    """
    found: dict[VersionRef, Version] = {}
    waiting = [registry.version(ref)]
    while waiting:
        version = waiting.pop()
        if version.ref not in found:
            found[version.ref] = version
            waiting += _present(registry, version.parents)
    return in_order(found.values())


def in_order(versions: Iterable[Version]) -> list[Version]:
    """Parents before children, older ones first."""
    rest = sorted(versions, key=lambda v: (v.created_at, v.adapter, v.number))
    known = {v.ref for v in rest}
    done: dict[VersionRef, Version] = {}
    while rest:
        ready = [v for v in rest if all(p in done or p not in known for p in v.parents)]
        done |= {v.ref: v for v in ready or rest}
        rest = [v for v in rest if v.ref not in done]
    return list(done.values())


def learned(registry: Registry, version: Version) -> list[Journalled]:
    """The events that made this version from its parents: its examples, or the judgements it took in."""
    if version.events is None:
        return []
    kind = ExamplesGiven if version.training else FeedbackGiven
    since = version.events - 1 if version.since is None else version.since
    if version.lessons:
        since = min(since, version.lessons[0].event - 1)
    found = registry.journal.read(version.adapter, after=since, limit=version.events - since)
    return [e for e in found if e.seq <= version.events and isinstance(e.event, kind)]


def events_between(line: Sequence[Version], other: Sequence[Version]) -> tuple[int, ...]:
    """Numbers of the events that versions of `line` learned and those of `other` did not."""
    shared = {v.ref for v in other}
    numbers: set[int] = set()
    for version in line:
        if version.ref in shared or version.events is None:
            continue
        numbers.add(version.events) if version.training else numbers.update(
            lesson.event for lesson in version.lessons
        )
    return tuple(sorted(numbers))


def _present(registry: Registry, refs: Sequence[VersionRef]) -> list[Version]:
    found = []
    for ref in refs:
        with suppress(NotFound):
            found.append(registry.version(ref))
    return found
