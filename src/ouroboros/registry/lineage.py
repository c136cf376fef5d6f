"""The family of versions: what each was made from, and which events it learned."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

from ouroboros.domain.errors import NotFound
from ouroboros.domain.names import VersionRef
from ouroboros.domain.records import Version
from ouroboros.registry.journal import JournalEntry
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


def learned(registry: Registry, version: Version) -> list[JournalEntry]:
    """The events that made this version from its parent, as far as they have not been erased."""
    numbers = version.learned
    if not numbers:
        return []
    after = numbers[0] - 1
    found = registry.journal.read(version.adapter, after=after, limit=numbers[-1] - after)
    return [entry for entry in found if entry.seq in numbers]


def events_between(line: Sequence[Version], other: Sequence[Version]) -> tuple[int, ...]:
    """Numbers of the events that versions of `line` learned and those of `other` did not."""
    shared = {v.ref for v in other}
    return tuple(sorted({n for v in line if v.ref not in shared for n in v.learned}))


def _present(registry: Registry, refs: Sequence[VersionRef]) -> list[Version]:
    found = []
    for ref in refs:
        with suppress(NotFound):
            found.append(registry.version(ref))
    return found
