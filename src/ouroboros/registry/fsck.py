"""Checking a store for damage, repairing heads, and removing unused weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ouroboros.domain.errors import NotFound, StoreError
from ouroboros.domain.names import VersionRef
from ouroboros.domain.records import Adapter, Version
from ouroboros.registry.erasure import ErasureNote, Remake, read_notes, read_remakes
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
    """Read every version and verify its weights' digest."""
    adapters = registry.list_adapters()
    lines = {adapter: registry.list_versions(adapter.id) for adapter in adapters}
    damages = [
        damage for adapter, line in lines.items() for damage in _find_damages(registry, adapter, line)
    ]
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

    A damaged version itself can only be restored from a backup.
    """
    moved = []
    for damage in report.damages:
        if damage.served and (sound := _newest_sound(registry, damage.ref)) is not None:
            moved.append(registry.rollback(sound))
    return moved


def collect_garbage(
    registry: Registry, grace: timedelta = GRACE, now: datetime | None = None
) -> list[str]:
    """Remove weights that no version has referred to for `grace`; returns their digests.

    Checkpoints that no job refers to go with them.
    """
    registry.jobs.remove_unused_checkpoints()
    return registry.weights.remove_unused(
        registry.version_rows.read_digests, grace, now or datetime.now(UTC)
    )


def _find_damages(registry: Registry, adapter: Adapter, line: list[Version]) -> Iterator[Damage]:
    numbers = {version.number for version in line}
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
    except NotFound:
        return []
