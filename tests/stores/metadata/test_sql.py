"""SQLite passes the suite; other files and newer stores are refused and left unchanged."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from ouroboros.domain.errors import StoreError
from ouroboros.stores.metadata import schema
from ouroboros.stores.metadata.sql import SqlMetadata
from ouroboros.stores.open import open_metadata
from ouroboros.testing.processes import run_in_processes
from ouroboros.testing.shared_metadata import SharedMetadataStoreSuite


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/folder/metadata.db"


class TestSqlite(SharedMetadataStoreSuite):
    pass


def test_every_commit_is_synced(url: str) -> None:
    store = SqlMetadata(url)
    with store._reading() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "secure_delete")
        ]
    store.close()
    assert pragmas == ["wal", 2, 1]


def test_a_store_with_a_newer_schema_is_refused_and_unchanged(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(schema, "UPGRADES", (lambda operations: None,) * 6)
        SqlMetadata(url).close()
    before = _read_tables(tmp_path / "folder" / "metadata.db")
    with pytest.raises(StoreError, match="schema 7; this program knows up to 1") as caught:
        SqlMetadata(url)
    assert "newer" in caught.value.hint
    assert _read_tables(tmp_path / "folder" / "metadata.db") == before


def test_a_file_that_is_not_a_database_is_refused_and_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("dear diary, " * 1000)
    with pytest.raises(StoreError, match="not a database") as caught:
        SqlMetadata(f"sqlite:///{file}")
    assert "another --store" in caught.value.hint
    assert file.read_text() == "dear diary, " * 1000


def test_a_folder_in_place_of_the_file_raises_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="unable to open"):
        SqlMetadata(f"sqlite:///{tmp_path}")


def test_a_full_disk_raises_store_error_and_changes_nothing(url: str) -> None:
    store = SqlMetadata(url)
    store.put("things", "a", {"n": 1}, expected=0)
    with store._reading() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StoreError, match="full") as caught:
        store.put("things", "b", {"text": "x" * 100_000}, expected=0)
    assert "Free some space" in caught.value.hint
    assert [r.key for r in store.scan("things")] == ["a"]
    store.close()


def test_a_read_only_store_can_be_read(url: str) -> None:
    store = SqlMetadata(url)
    store.put("things", "a", {"n": 1}, expected=0)
    with store._reading() as connection:
        connection.exec_driver_sql("PRAGMA query_only=ON")
    with pytest.raises(StoreError, match="readonly"):
        store.put("things", "b", {}, expected=0)
    assert store.get("things", "a") is not None
    store.close()


def test_erased_text_is_absent_from_the_stores_files(url: str, tmp_path: Path) -> None:
    store = SqlMetadata(url)
    store.append("log", {"text": "a secret of mine " * 500})
    store.append("log", {"text": "other"})
    store.erase("log", 1, 1)
    store.close()
    files = list((tmp_path / "folder").iterdir())
    assert files
    assert all(b"a secret of mine" not in file.read_bytes() for file in files)


def test_processes_that_open_a_new_store_at_once_all_succeed(url: str) -> None:
    assert sorted(run_in_processes(3, _open_and_append, url)) == [1, 2, 3]


def _open_and_append(_: int, url: str) -> int:
    store = open_metadata(url)
    try:
        return store.append("log", {})
    finally:
        store.close()


def _read_tables(file: Path) -> list[tuple[str, str]]:
    connection = sqlite3.connect(file)
    try:
        return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
    finally:
        connection.close()


def test_scrubbing_removes_every_trace_of_removed_values(url: str, tmp_path: Path) -> None:
    store = SqlMetadata(url)
    for n in range(200):
        store.append("log", {"text": f"a secret, number {n}, " * 50})
        store.put("c", f"{n}", {"text": "a secret " * n}, expected=0)
    store.erase("log", 1, 199)
    for n in range(200):
        store.put("c", f"{n}", {"text": "plain"}, expected=1)
    for n in range(0, 200, 2):
        store.delete("c", f"{n}", expected=2)
    store.erase("log", 200, 200)
    store.scrub()
    contents = b"".join(f.read_bytes() for f in (tmp_path / "folder").iterdir())
    assert b"secret" not in contents
    assert contents.count(b"plain") == 100
    assert store.append("log", {}) == 201
    store.close()


def test_scrubbing_during_a_read_raises_store_error(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ouroboros.stores.metadata.connect.BUSY_SECONDS", 0.1)
    store = SqlMetadata(url)
    store.append("log", {})
    with store._reading() as reading:
        reading.exec_driver_sql("SELECT * FROM entries").fetchone()
        store.append("log", {})
        with pytest.raises(StoreError, match="locked"):
            store.scrub()
    store.scrub()
    store.close()


def test_the_database_of_another_program_is_refused_and_not_changed(tmp_path: Path) -> None:
    file = tmp_path / "theirs.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE records (id INTEGER)")
    before = file.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        open_metadata(f"sqlite:///{file}")
    assert file.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["theirs.db"]
