"""A store with an older schema is upgraded once, completely or not at all, on each database."""

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer

from ouroboros.domain.errors import StoreError
from ouroboros.stores.metadata import schema
from ouroboros.stores.metadata.sql import SqlMetadata

RELEASED_1 = """
CREATE TABLE ouroboros_schema (version INTEGER NOT NULL, PRIMARY KEY (version));
CREATE TABLE records (collection VARCHAR(512) NOT NULL, "key" VARCHAR(512) NOT NULL,
  revision INTEGER NOT NULL, value TEXT NOT NULL, PRIMARY KEY (collection, "key"));
CREATE TABLE logs (log VARCHAR(512) NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (log));
CREATE TABLE entries (log VARCHAR(512) NOT NULL, seq INTEGER NOT NULL, value TEXT NOT NULL,
  PRIMARY KEY (log, seq));
INSERT INTO ouroboros_schema VALUES (1);
INSERT INTO records VALUES ('things', 'a', 3, '{"n":1}');
INSERT INTO logs VALUES ('log', 7);
INSERT INTO entries VALUES ('log', 7, '{"n":7}');
"""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store as version 0.1 made it, with the text of its tables as it was then."""
    if request.param == "sqlite":
        connection = sqlite3.connect(tmp_path / "m.db")
        connection.executescript(RELEASED_1)
        connection.close()
        return f"sqlite:///{tmp_path}/m.db"
    import psycopg

    database = request.getfixturevalue("database")
    with psycopg.connect(database) as connection:
        connection.execute(RELEASED_1.encode())
    return database


def test_a_store_of_each_released_schema_can_be_read(url: str) -> None:
    _assert_data_is_unchanged(url)


def test_an_upgrade_runs_once_and_keeps_all_data(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def add_a_column(operations) -> None:
        runs.append(1)
        operations.add_column("logs", Column("extra", Integer, server_default="0", nullable=False))

    monkeypatch.setattr(schema, "UPGRADES", (add_a_column,))
    _assert_data_is_unchanged(url)
    SqlMetadata(url).close()
    assert runs == [1]


def test_an_upgrade_that_fails_changes_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(operations) -> None:
        operations.drop_table("entries")
        operations.drop_table("absent")

    with monkeypatch.context() as patch:
        patch.setattr(schema, "UPGRADES", (fail,))
        with pytest.raises(StoreError, match="absent"):
            SqlMetadata(url)
    _assert_data_is_unchanged(url)


def _assert_data_is_unchanged(url: str) -> None:
    store = SqlMetadata(url)
    record = store.get("things", "a")
    assert record is not None
    assert (record.value, record.revision) == ({"n": 1}, 3)
    assert [(e.seq, e.value) for e in store.read("log")] == [(7, {"n": 7})]
    assert store.last("log") == 7
    store.close()
