"""Adapters and versions: what is durable in which order, who wins, and what is never used twice."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.errors import AlreadyExists, Conflict, InvalidName, NotFound, StoreError
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.training import TrainingReport
from ouroboros.domain.weights import AdapterFiles
from ouroboros.registry.registry import Registry
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.testing.processes import run_in_threads

TICKETS = AdapterId("tickets")
MakeFiles = Callable[[object], AdapterFiles]


@pytest.fixture
def tickets(registry: Registry, base: BaseModel, make_files: MakeFiles) -> AdapterId:
    registry.create_adapter(TICKETS, AdapterConfig(), base, make_files("fresh"))
    return TICKETS


def test_a_new_adapter_serves_its_first_version(
    registry: Registry, base: BaseModel, make_files: MakeFiles
) -> None:
    files = make_files("fresh")
    adapter = registry.create_adapter(TICKETS, AdapterConfig(rank=4), base, files)
    assert (adapter.head, adapter.config.rank, adapter.base) == (1, 4, base.fingerprint)
    version = registry.get_version(VersionRef(TICKETS))
    assert (version.number, version.parent, version.cause) == (1, None, "created")
    assert (version.digest, version.size) == (files.digest, len(files.weights))
    assert registry.load_files(version) == files


def test_everything_reads_the_same_after_reopening(
    registry: Registry, tickets: AdapterId, make_files: MakeFiles, open_registry: Callable[[], Registry]
) -> None:
    training = TrainingConfig(epochs=3, seed=7)
    report = TrainingReport(100, 75, 9000, 2.5, 0.1 + 0.2, 1.25, "rate is low")
    version = registry.commit_version(
        tickets, make_files(2), parent=1, cause="trained", training=training, report=report, events=5
    )
    registry.close()
    reopened = open_registry()
    assert reopened.get_version(VersionRef(tickets)) == version
    assert (version.training, version.report, version.events) == (training, report, 5)
    assert reopened.get_adapter(tickets).head == 2
    assert reopened.load_files(version) == make_files(2)
    reopened.close()


def test_a_version_is_a_folder_that_others_read(
    registry: Registry, tickets: AdapterId, make_files: MakeFiles, tmp_path: Path
) -> None:
    folder = tmp_path / "blobs" / "adapters" / registry.get_version(VersionRef(tickets)).digest
    assert sorted(f.name for f in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert json.loads((folder / "adapter_config.json").read_bytes()) == {"r": 8}


def test_a_taken_name_is_refused_and_its_adapter_unchanged(
    registry: Registry, tickets: AdapterId, base: BaseModel, make_files: MakeFiles
) -> None:
    with pytest.raises(AlreadyExists):
        registry.create_adapter(tickets, AdapterConfig(rank=16), base, make_files("other"))
    assert registry.get_adapter(tickets).config.rank == 8
    assert len(registry.list_versions(tickets)) == 1


def test_a_name_nobody_can_address_is_refused_before_anything_is_stored(
    registry: Registry, base: BaseModel, make_files: MakeFiles, tmp_path: Path
) -> None:
    with pytest.raises(InvalidName):
        registry.create_adapter(AdapterId("a@b"), AdapterConfig(), base, make_files(1))
    assert not (tmp_path / "blobs" / "adapters").exists()


def test_of_writers_that_start_from_one_head_one_wins_and_the_others_leave_nothing(
    registry: Registry, tickets: AdapterId, make_files: MakeFiles
) -> None:
    def commit(writer: int) -> int:
        try:
            return registry.commit_version(tickets, make_files(writer), parent=1, cause="trained").number
        except Conflict:
            return 0

    won = [number for number in run_in_threads(6, commit) if number]
    assert len(won) == 1
    assert [v.number for v in registry.list_versions(tickets)] == [1, *won]
    assert registry.get_adapter(tickets).head == won[0]


@pytest.mark.parametrize("deleted_before", [False, True])
def test_of_writers_that_create_one_name_one_wins_and_its_adapter_is_whole(
    registry: Registry, base: BaseModel, make_files: MakeFiles, deleted_before: bool
) -> None:
    if deleted_before:
        registry.create_adapter(TICKETS, AdapterConfig(), base, make_files("old"))
        registry.delete_adapter(TICKETS)

    def create(writer: int) -> int:
        try:
            return registry.create_adapter(
                TICKETS, AdapterConfig(rank=writer + 1), base, make_files(writer)
            ).head
        except AlreadyExists:
            return 0

    won = [number for number in run_in_threads(6, create) if number]
    assert won == [registry.get_adapter(TICKETS).head]
    assert [v.number for v in registry.list_versions(TICKETS)] == won
    winner = registry.get_adapter(TICKETS).config.rank - 1
    assert registry.load_files(registry.get_version(VersionRef(TICKETS))) == make_files(winner)


def test_a_creator_who_is_overtaken_just_after_looking_is_refused(
    registry: Registry, base: BaseModel, make_files: MakeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = registry._metadata.get

    def get_after_other_writer(collection: str, key: str) -> object:
        seen = get(collection, key)
        monkeypatch.setattr(registry._metadata, "get", get)
        registry.create_adapter(TICKETS, AdapterConfig(rank=4), base, make_files("first"))
        return seen

    monkeypatch.setattr(registry._metadata, "get", get_after_other_writer)
    with pytest.raises(AlreadyExists):
        registry.create_adapter(TICKETS, AdapterConfig(rank=8), base, make_files("second"))
    assert registry.get_adapter(TICKETS).config.rank == 4


def test_a_losers_number_is_never_used_again(
    registry: Registry, tickets: AdapterId, make_files: MakeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure = registry.weights.secure

    def secure_after_other_writer(files: AdapterFiles) -> None:
        secure(files)
        monkeypatch.setattr(registry.weights, "secure", secure)
        registry.commit_version(tickets, make_files("fast"), parent=1, cause="trained")

    monkeypatch.setattr(registry.weights, "secure", secure_after_other_writer)
    with pytest.raises(Conflict):
        registry.commit_version(tickets, make_files("slow"), parent=1, cause="trained")
    assert registry.commit_version(tickets, make_files("next"), parent=3, cause="trained").number == 4
    with pytest.raises(NotFound):
        registry.get_version(VersionRef(tickets, 2))


@pytest.mark.parametrize("step", ["put", "add", "_move_head"])
def test_a_crash_between_steps_leaves_the_old_head_whole(
    registry: Registry,
    tickets: AdapterId,
    make_files: MakeFiles,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        part = {"put": registry.weights, "add": registry.version_rows, "_move_head": registry}[step]
        broken.setattr(part, step, crash)
        with pytest.raises(KeyboardInterrupt):
            registry.commit_version(tickets, make_files(2), parent=1, cause="trained")
    head = registry.get_version(VersionRef(tickets))
    assert (head.number, registry.load_files(head)) == (1, make_files("fresh"))
    version = registry.commit_version(tickets, make_files(2), parent=1, cause="trained")
    assert registry.load_files(version) == make_files(2)


def test_what_is_not_there_is_not_found(registry: Registry, tickets: AdapterId) -> None:
    nobody = AdapterId("nobody")
    for ask in (
        registry.get_adapter,
        registry.list_versions,
        registry.delete_adapter,
        registry.list_head_moves,
    ):
        with pytest.raises(NotFound, match="no adapter 'nobody'"):
            ask(nobody)
    with pytest.raises(NotFound, match="no adapter 'nobody'"):
        registry.get_version(VersionRef(nobody, 1))
    with pytest.raises(NotFound, match="no version 7"):
        registry.get_version(VersionRef(tickets, 7))


def test_adapters_are_listed_by_name(registry: Registry, base: BaseModel, make_files: MakeFiles) -> None:
    for name in ("b", "ä", "a/../b", "a b", "Z"):
        registry.create_adapter(AdapterId(name), AdapterConfig(), base, make_files(name))
    assert [a.id.name for a in registry.list_adapters()] == ["Z", "a b", "a/../b", "b", "ä"]


def test_adapters_are_listed_a_page_at_a_time(
    registry: Registry, base: BaseModel, make_files: MakeFiles
) -> None:
    for name in "abcde":
        registry.create_adapter(AdapterId(name), AdapterConfig(), base, make_files(name))
    registry.delete_adapter(AdapterId("c"))
    assert [a.id.name for a in registry.list_adapters(limit=3)] == ["a", "b", "d"]
    assert [a.id.name for a in registry.list_adapters("b", 2)] == ["d", "e"]
    assert registry.list_adapters("e", 2) == []


def test_a_name_that_starts_another_has_its_own_versions(
    registry: Registry, tickets: AdapterId, base: BaseModel, make_files: MakeFiles
) -> None:
    registry.create_adapter(AdapterId("ticketsX"), AdapterConfig(), base, make_files("x"))
    assert [str(v.ref) for v in registry.list_versions(tickets)] == ["tickets@1"]


def test_a_deleted_adapter_is_gone_and_its_numbers_are_not_used_again(
    registry: Registry, tickets: AdapterId, base: BaseModel, make_files: MakeFiles, tmp_path: Path
) -> None:
    registry.commit_version(tickets, make_files(2), parent=1, cause="trained")
    registry.journal.append_examples(tickets, [])
    registry.delete_adapter(tickets)
    assert registry.list_adapters() == []
    assert not list((tmp_path / "blobs").rglob("*.safetensors"))
    adapter = registry.create_adapter(tickets, AdapterConfig(), base, make_files("fresh"))
    assert (adapter.head, adapter.born) == (3, 1)
    assert [v.number for v in registry.list_versions(tickets)] == [3]
    assert registry.journal.read(tickets) == []
    assert registry.load_files(registry.get_version(VersionRef(tickets))) == make_files("fresh")


def test_a_writer_who_knew_the_former_adapter_of_a_name_loses(
    registry: Registry, tickets: AdapterId, base: BaseModel, make_files: MakeFiles
) -> None:
    registry.delete_adapter(tickets)
    with pytest.raises(NotFound):
        registry.commit_version(tickets, make_files("late"), parent=1, cause="trained")
    registry.create_adapter(tickets, AdapterConfig(), base, make_files("new"))
    with pytest.raises(Conflict):
        registry.commit_version(tickets, make_files("late"), parent=1, cause="trained")


def test_an_adapter_deleted_during_a_commit_stays_deleted(
    registry: Registry, tickets: AdapterId, make_files: MakeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure = registry.weights.secure
    monkeypatch.setattr(
        registry.weights, "secure", lambda files: registry.delete_adapter(tickets) or secure(files)
    )
    with pytest.raises(NotFound):
        registry.commit_version(tickets, make_files("late"), parent=1, cause="trained")
    assert registry.list_adapters() == []
    assert registry.version_rows.read_digests() == set()


def test_a_deletion_that_was_cut_short_is_finished_when_the_name_is_used_again(
    registry: Registry,
    tickets: AdapterId,
    base: BaseModel,
    make_files: MakeFiles,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(registry, "_purge", lambda *_: None)
        registry.delete_adapter(tickets)
    registry.create_adapter(tickets, AdapterConfig(), base, make_files("new"))
    assert [v.number for v in registry.list_versions(tickets)] == [2]
    assert registry.version_rows.read_digests() == {make_files("new").digest}


def test_weights_that_another_adapter_shares_outlive_a_deletion(
    registry: Registry, tickets: AdapterId, base: BaseModel, make_files: MakeFiles
) -> None:
    other = AdapterId("other")
    registry.create_adapter(other, AdapterConfig(), base, make_files("fresh"))
    registry.delete_adapter(tickets)
    assert registry.load_files(registry.get_version(VersionRef(other))) == make_files("fresh")


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_weights_are_never_handed_out(
    registry: Registry, tickets: AdapterId, tmp_path: Path, damage: str
) -> None:
    (file,) = (tmp_path / "blobs").rglob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data if damage == "flip" else data[:-1])
    if damage == "remove":
        file.unlink()
    with pytest.raises(StoreError, match="tickets@1 are damaged") as caught:
        registry.load_files(registry.get_version(VersionRef(tickets)))
    assert "backup" in caught.value.hint


def test_a_record_of_a_newer_program_is_refused_by_name(registry: Registry, tickets: AdapterId) -> None:
    record = registry._metadata.get("adapters", tickets.name)
    assert record is not None
    value = {**record.value, "moods": 3}
    registry._metadata.put("adapters", tickets.name, value, expected=record.revision)
    with pytest.raises(StoreError, match=r"adapter 'tickets' cannot be read: moods") as caught:
        registry.get_adapter(tickets)
    assert "newer" in caught.value.hint


def test_weights_come_before_their_config_and_both_before_the_row(
    registry: Registry, tickets: AdapterId, make_files: MakeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    blobs: BlobStore = registry._blobs
    put_blob, put_record = blobs.put, registry._metadata.put
    monkeypatch.setattr(blobs, "put", lambda key, data: written.append(key) or put_blob(key, data))
    monkeypatch.setattr(
        registry._metadata, "put", lambda c, k, v, **e: written.append(c) or put_record(c, k, v, **e)
    )
    registry.commit_version(tickets, make_files(2), parent=1, cause="trained")
    order = [w.rpartition("/")[2] for w in dict.fromkeys(written)]
    assert order == [
        "adapter_model.safetensors",
        "adapter_config.json",
        "numbers",
        "versions",
        "adapters",
    ]
