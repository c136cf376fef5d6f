"""Checking a store for damage, repairing heads, and removing unused weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ouroboros.domain.errors import NotFound, StoreError
from ouroboros.domain.names import VersionRef
from ouroboros.domain.records import Adapter, Version
from ouroboros.registry.backup import require_restored
from ouroboros.registry.erasure import ErasureNote, Remake, read_notes, read_remakes
from ouroboros.registry.registry import Registry

GRACE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong with one version, in words; `served` if it is its adapter's head.

    With `event`, that event of the adapter's journal cannot be read, or is missing.
    """

    ref: VersionRef
    words: str
    served: bool
    event: int | None = None


@dataclass(frozen=True, slots=True)
class StoreReport:
    """The result of `check_store`: how much it read, what is damaged, and unused weights.

    Unused weights are harmless: a writer was killed before it wrote its version, or lost a race.
    `forgetting` holds erasures that were interrupted and should be resumed, and `remakes` what could not
    be made again yet without the erased data.
    """

    adapters: int
    versions: int
    damages: tuple[Damage, ...]
    unused: tuple[str, ...]
    forgetting: tuple[ErasureNote, ...] = ()
    remakes: tuple[Remake, ...] = ()


def check_store(registry: Registry) -> StoreReport:
    """Read every record, version and event, and verify the digests of weights and events."""
    require_restored(registry.stores[0])
    adapters = registry.list_adapters()
    lines = {adapter: registry.list_versions(adapter.id) for adapter in adapters}
    damages = [
        damage for adapter, line in lines.items() for damage in _find_damages(registry, adapter, line)
    ]
    for adapter in adapters:
        damages += _find_journal_damages(registry, adapter)
    for name in registry.find_damaged_adapters():
        words = "the adapter's record cannot be read; restore it from a backup"
        damages.append(Damage(VersionRef(name), words, served=True))
    return StoreReport(
        adapters=len(adapters),
        versions=sum(map(len, lines.values())),
        damages=tuple(damages),
        unused=tuple(
            sorted(set(registry.weights.list_digests()) - registry.version_rows.read_digests())
        ),
        forgetting=tuple(read_notes(registry)),
        remakes=tuple(read_remakes(registry)),
    )


def repair_heads(registry: Registry, report: StoreReport) -> list[Adapter]:
    """Roll adapters with a damaged head back to their newest sound version; returns those moved.

    Damaged events are removed from their journals, and missing ones recorded as erased. A damaged
    version itself can only be restored from a backup.
    """
    moved = []
    unreadable = registry.find_damaged_adapters()
    for damage in report.damages:
        if damage.event is not None:
            registry.journal.erase(damage.ref.adapter, damage.event, damage.event)
        elif damage.ref.adapter in unreadable:
            continue
        elif damage.served and (sound := _newest_sound(registry, damage.ref)) is not None:
            moved.append(registry.rollback(sound))
    return moved


def collect_garbage(
    registry: Registry, grace: timedelta = GRACE, now: datetime | None = None
) -> list[str]:
    """Remove weights that no version has referred to for `grace`; returns their digests.

    Checkpoints that no job refers to go with them, and the drafts of killed writers.
    """
    registry.jobs.remove_unused_checkpoints()
    registry.stores[1].remove_drafts()
    return registry.weights.remove_unused(
        registry.version_rows.read_digests, grace, now or datetime.now(UTC)
    )


def _find_damages(registry: Registry, adapter: Adapter, line: list[Version]) -> Iterator[Damage]:
    numbers = {version.number for version in line}
    for number in registry.version_rows.find_damaged(adapter.id):
        ref = VersionRef(adapter.id, number)
        yield Damage(ref, "its record cannot be read", served=number == adapter.head)
        numbers.add(number)
    if adapter.head not in numbers and adapter.head != 0:
        yield Damage(VersionRef(adapter.id, adapter.head), "its record is missing", served=True)
    for version in line:
        if version.parent is not None and version.parent not in numbers:
            words = f"the record of @{version.parent}, which it was made from, is missing"
            yield Damage(version.ref, words, served=False)
        try:
            registry.original_weights.get(version.digest, str(version.ref))
        except StoreError as error:
            yield Damage(version.ref, error.message, served=version.number == adapter.head)


def _find_journal_damages(registry: Registry, adapter: Adapter) -> Iterator[Damage]:
    for damage in registry.journal.find_damage(adapter.id, adapter.born, adapter.applied):
        yield Damage(VersionRef(adapter.id), damage.words, served=False, event=damage.seq)


def _newest_sound(registry: Registry, damaged: VersionRef) -> VersionRef | None:
    """Return the nearest sound ancestor, or else the newest sound version."""
    others = [v for v in reversed(registry.list_versions(damaged.adapter)) if not v.refused]
    for version in [*_ancestors(registry, damaged), *others]:
        try:
            registry.original_weights.get(version.digest, str(version.ref))
        except StoreError:
            continue
        return version.ref
    return None


def _ancestors(registry: Registry, ref: VersionRef) -> list[Version]:
    try:
        return registry.list_lineage(ref)
    except (NotFound, StoreError):
        return []
