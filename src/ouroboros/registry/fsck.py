"""Looking after a store: is everything in it whole, what can go, and what can be put right."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ouroboros.domain.errors import NotFound, StoreError
from ouroboros.domain.names import VersionRef
from ouroboros.domain.records import Adapter, Version
from ouroboros.registry.erasure import ErasureNote, notes
from ouroboros.registry.registry import Registry

GRACE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong with one version, in words; `served` if it is its adapter's head."""

    ref: VersionRef
    words: str
    served: bool


@dataclass(frozen=True, slots=True)
class StoreReport:
    """What `check` found: how much it read, what is damaged, and weights that no version refers to.

    Unused weights are harmless: a writer died before its version was written, or lost a race. What was
    `forgetting` when the program was stopped is to be gone on with.
    """

    adapters: int
    versions: int
    damages: tuple[Damage, ...]
    unused: tuple[str, ...]
    forgetting: tuple[ErasureNote, ...] = ()


def check(registry: Registry) -> StoreReport:
    """Read every version and verify its weights' digest."""
    adapters = registry.adapters()
    lines = {adapter: registry.versions(adapter.id) for adapter in adapters}
    damages = [damage for adapter, line in lines.items() for damage in _damages(registry, adapter, line)]
    return StoreReport(
        adapters=len(adapters),
        versions=sum(map(len, lines.values())),
        damages=tuple(damages),
        unused=tuple(sorted(set(registry.weights.digests()) - registry.rows.digests())),
        forgetting=tuple(notes(registry)),
    )


def repair(registry: Registry, checkup: StoreReport) -> list[Adapter]:
    """Put adapters with a damaged head back to their newest sound version; returns those moved.

    The move is a rollback like any other. A damaged version itself can only come from a backup.
    """
    moved = []
    for damage in checkup.damages:
        if damage.served and (sound := _newest_sound(registry, damage.ref)) is not None:
            moved.append(registry.rollback(sound))
    return moved


def collect(registry: Registry, grace: timedelta = GRACE, now: datetime | None = None) -> list[str]:
    """Remove weights that no version has referred to for `grace`; returns their digests.

    Checkpoints that no job refers to go with them.
    """
    registry.jobs.collect()
    return registry.weights.collect(registry.rows.digests, grace, now or datetime.now(UTC))


def _damages(registry: Registry, adapter: Adapter, line: list[Version]) -> Iterator[Damage]:
    numbers = {version.number for version in line}
    if adapter.head not in numbers:
        yield Damage(VersionRef(adapter.id, adapter.head), "its record is missing", served=True)
    for version in line:
        if version.parent is not None and version.parent not in numbers:
            words = f"the record of @{version.parent}, which it was made from, is missing"
            yield Damage(version.ref, words, served=False)
        try:
            registry.originals.get(version.digest, str(version.ref))
        except StoreError as error:
            yield Damage(version.ref, error.message, served=version.number == adapter.head)


def _newest_sound(registry: Registry, damaged: VersionRef) -> VersionRef | None:
    """The nearest sound ancestor, or else the newest sound version there is."""
    others = [v for v in reversed(registry.versions(damaged.adapter)) if not v.refused]
    for version in [*_ancestors(registry, damaged), *others]:
        try:
            registry.originals.get(version.digest, str(version.ref))
        except StoreError:
            continue
        return version.ref
    return None


def _ancestors(registry: Registry, ref: VersionRef) -> list[Version]:
    try:
        return registry.lineage(ref)
    except NotFound:
        return []
