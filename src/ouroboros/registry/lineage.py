"""The ancestry of versions, and the events that each of them learned."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

from ouroboros.domain.errors import NotFound
from ouroboros.domain.names import VersionRef
from ouroboros.domain.records import Version
from ouroboros.registry.journal import JournalEntry
from ouroboros.registry.registry import Registry


def list_ancestors(registry: Registry, ref: VersionRef) -> list[Version]:
    """Return a version and all its ancestors, through merges too, parents before children.

    Versions that have been deleted are left out.
    """
    ancestors: dict[VersionRef, Version] = {}
    waiting = [registry.get_version(ref)]
    while waiting:
        version = waiting.pop()
        if version.ref not in ancestors:
            ancestors[version.ref] = version
            waiting += _existing_versions(registry, version.parents)
    return sort_by_ancestry(ancestors.values())


def sort_by_ancestry(versions: Iterable[Version]) -> list[Version]:
    """Sort versions topologically: parents before children, and older ones first."""
    rest = sorted(versions, key=lambda v: (v.created_at, v.adapter, v.number))
    known = {v.ref for v in rest}
    done: dict[VersionRef, Version] = {}
    while rest:
        ready = [v for v in rest if all(p in done or p not in known for p in v.parents)]
        done |= {v.ref: v for v in ready or rest}
        rest = [v for v in rest if v.ref not in done]
    return list(done.values())


def read_learned_events(registry: Registry, version: Version) -> list[JournalEntry]:
    """Return the events that this version learned, without those that have been erased."""
    numbers = version.learned
    if not numbers:
        return []
    after = numbers[0] - 1
    entries = registry.journal.read(version.adapter, after=after, limit=numbers[-1] - after)
    return [entry for entry in entries if entry.seq in numbers]


def list_new_events(line: Sequence[Version], other: Sequence[Version]) -> tuple[int, ...]:
    """Return the numbers of the events that `line` learned and `other` did not."""
    shared = {v.ref for v in other}
    return tuple(sorted({n for v in line if v.ref not in shared for n in v.learned}))


def _existing_versions(registry: Registry, refs: Sequence[VersionRef]) -> list[Version]:
    versions = []
    for ref in refs:
        with suppress(NotFound):
            versions.append(registry.get_version(ref))
    return versions
