"""Finding what is damaged, serving something sound again, and removing what nobody uses."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.weights import AdapterFiles
from ouroboros.registry.fsck import check_store, collect_garbage, repair_heads
from ouroboros.registry.registry import Registry

TICKETS = AdapterId("tickets")
MakeFiles = Callable[[object], AdapterFiles]
NOW = datetime(2030, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def tickets(registry: Registry, base: BaseModel, make_files: MakeFiles) -> AdapterId:
    registry.create_adapter(TICKETS, AdapterConfig(), base, make_files(1))
    for parent in (1, 2):
        registry.commit_version(TICKETS, make_files(parent + 1), parent=parent, cause="trained")
    return TICKETS


def damage(tmp_path: Path, files: AdapterFiles) -> None:
    file = tmp_path / "blobs" / "adapters" / files.digest / "adapter_model.safetensors"
    file.write_bytes(b"x" + file.read_bytes()[1:])


def test_a_sound_store_is_found_sound(registry: Registry, tickets: AdapterId) -> None:
    report = check_store(registry)
    assert (report.adapters, report.versions, report.damages, report.unused) == (1, 3, (), ())
    assert repair_heads(registry, report) == []
    assert registry.list_head_moves(tickets) == []


def test_a_damaged_head_is_found_and_its_nearest_sound_ancestor_served(
    registry: Registry, tickets: AdapterId, make_files: MakeFiles, tmp_path: Path
) -> None:
    damage(tmp_path, make_files(3))
    damage(tmp_path, make_files(2))
    report = check_store(registry)
    damages = [(str(d.ref), d.served) for d in report.damages]
    assert damages == [("tickets@2", False), ("tickets@3", True)]
    (moved,) = repair_heads(registry, report)
    assert moved.head == registry.get_adapter(tickets).head == 1
    assert [(m.before, m.after) for m in registry.list_head_moves(tickets)] == [(3, 1)]


def test_a_head_without_a_record_is_found_and_replaced(registry: Registry, tickets: AdapterId) -> None:
    registry._metadata.delete("versions", "tickets@000000003", expected=1)
    report = check_store(registry)
    assert [(str(d.ref), d.served) for d in report.damages] == [("tickets@3", True)]
    assert [a.head for a in repair_heads(registry, report)] == [2]


def test_nothing_sound_left_is_said_and_nothing_moved(
    registry: Registry, tickets: AdapterId, make_files: MakeFiles, tmp_path: Path
) -> None:
    for n in (1, 2, 3):
        damage(tmp_path, make_files(n))
    report = check_store(registry)
    assert len(report.damages) == 3
    assert repair_heads(registry, report) == []
    assert registry.get_adapter(tickets).head == 3


def test_unused_weights_go_after_their_grace_and_used_ones_stay(
    registry: Registry, tickets: AdapterId, make_files: MakeFiles
) -> None:
    orphan = make_files("orphan")
    registry.weights.put(orphan)
    assert check_store(registry).unused == (orphan.digest,)
    assert collect_garbage(registry, HOUR, NOW) == []
    assert collect_garbage(registry, HOUR, NOW + HOUR / 2) == []
    assert collect_garbage(registry, HOUR, NOW + HOUR) == [orphan.digest]
    assert collect_garbage(registry, HOUR, NOW + 2 * HOUR) == []
    assert check_store(registry).damages == check_store(registry).unused == ()


def test_what_is_used_again_gets_its_whole_grace_anew(
    registry: Registry, tickets: AdapterId, make_files: MakeFiles
) -> None:
    registry.weights.put(make_files("again"))
    collect_garbage(registry, HOUR, NOW)
    version = registry.commit_version(tickets, make_files("again"), parent=3, cause="trained")
    assert collect_garbage(registry, HOUR, NOW + HOUR) == []
    assert registry.load_files(version) == make_files("again")
    registry._metadata.delete("versions", f"tickets@{version.number:09d}", expected=1)
    assert collect_garbage(registry, HOUR, NOW + 2 * HOUR) == []
    assert collect_garbage(registry, HOUR, NOW + 3 * HOUR) == [version.digest]


def test_what_a_killed_sweep_left_half_removed_is_removed(
    registry: Registry, tickets: AdapterId, make_files: MakeFiles, tmp_path: Path
) -> None:
    orphan = make_files("orphan")
    registry.weights.put(orphan)
    registry._blobs.delete(f"adapters/{orphan.digest}/adapter_config.json")
    assert collect_garbage(registry, timedelta(0), NOW) == [orphan.digest]
    assert not (tmp_path / "blobs" / "adapters" / orphan.digest).exists()


@pytest.mark.parametrize("moment", ["before the row is written", "after the row is written"])
def test_weights_stored_again_while_they_are_swept_are_there_in_the_end(
    registry: Registry,
    tickets: AdapterId,
    make_files: MakeFiles,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    """The sweep runs at the worst moments of a commit of the same weights."""
    files = make_files("orphan")
    registry.weights.put(files)
    before = moment.startswith("before")
    part, step = (registry.version_rows, "add") if before else (registry, "_move_head")
    original = getattr(part, step)

    def swept_first(*args: object) -> object:
        monkeypatch.setattr(part, step, original)
        collect_garbage(registry, timedelta(0), NOW)
        return original(*args)

    monkeypatch.setattr(part, step, swept_first)
    version = registry.commit_version(tickets, files, parent=3, cause="trained")
    assert registry.load_files(version) == files
    assert check_store(registry).damages == ()


def test_a_commit_waits_for_a_sweep_and_a_dead_sweep_is_passed_over(
    registry: Registry, tickets: AdapterId, make_files: MakeFiles
) -> None:
    """The mark of a sweep that was killed long ago stops nobody."""
    files = make_files("again")
    registry._metadata.put("sweeps", files.digest, {"at": "2020-01-01T00:00:00+00:00"}, expected=0)
    version = registry.commit_version(tickets, files, parent=3, cause="trained")
    assert registry.load_files(version) == files
    assert registry._metadata.get("sweeps", files.digest) is None
    assert registry.get_version(VersionRef(tickets)) == version


@pytest.mark.parametrize("takeover", [False, True], ids=["a writer evades it", "another sweep follows"])
def test_a_sweep_that_was_stopped_deletes_nothing_that_was_stored_since(
    registry: Registry,
    tickets: AdapterId,
    make_files: MakeFiles,
    monkeypatch: pytest.MonkeyPatch,
    takeover: bool,
) -> None:
    """However late it goes on: it had found the weights unused, and others have stored them again."""
    files = make_files("orphan")
    registry.weights.put(files)
    stored = []

    def stop_after_reading() -> set[str]:
        used = registry.version_rows.read_digests()
        mark = registry._metadata.get("sweeps", files.digest)
        assert mark is not None
        late = {**mark.value, "at": "2020-01-01T00:00:00+00:00"}
        registry._metadata.put("sweeps", files.digest, late, expected=mark.revision)
        if takeover:
            registry.weights.sweep([files.digest], registry.version_rows.read_digests)
        stored.append(registry.commit_version(tickets, files, parent=3, cause="trained"))
        return used

    registry.weights.sweep([files.digest], stop_after_reading)
    assert registry.load_files(stored[0]) == files
    report = check_store(registry)
    assert (report.damages, report.unused) == ((), ())
    assert registry._metadata.collections().count("sweeps") == 0
    # The next commit and the next sweep of the same weights know the new place.
    version = registry.commit_version(tickets, files, parent=stored[0].number, cause="trained")
    assert registry.load_files(version) == files
    registry.delete_adapter(tickets)
    assert [key for key in registry._blobs.list() if files.digest in key] == []
