"""SQLAlchemy engines, configured so that a committed write is on disk."""

import errno
import importlib.util
import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.engine import Engine

from ouroboros.domain.errors import MissingExtra, StoreError
from ouroboros.stores.faults import retry
from ouroboros.stores.folders import make_folder

BUSY_SECONDS = 30
"""How long a writer waits for another writer before it fails."""

WRITES = "ouroboros_writes"
"""The execution option of connections whose transaction writes."""


def create_sql_engine(url: URL) -> Engine:
    """Create the engine for `url`, and the folder of an SQLite file."""
    return (
        _create_sqlite_engine(url)
        if url.get_backend_name() == "sqlite"
        else _create_postgresql_engine(url)
    )


def _create_postgresql_engine(url: URL) -> Engine:
    """PostgreSQL, durable at each commit. Connecting waits some seconds for a server that restarts.

    Only connecting is retried, because nothing has been written yet. A connection that breaks during a
    write raises an error, because the client cannot know whether the commit arrived.
    """
    if importlib.util.find_spec("psycopg") is None:
        raise MissingExtra(
            "A PostgreSQL store needs psycopg, which is not installed here.",
            hint="Install it with: pip install 'ouroboros-learning[postgres]'",
        )
    engine = create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True)

    @event.listens_for(engine, "do_connect")
    def connect_patiently(dialect: Any, _: object, arguments: Any, named: Any) -> Any:
        named = {"connect_timeout": 10} | named
        return retry(lambda: dialect.connect(*arguments, **named), _is_restarting)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        connection.execute(f"SET synchronous_commit = on; SET lock_timeout = '{BUSY_SECONDS}s'")
        connection.commit()

    return engine


def _is_restarting(error: Exception) -> bool:
    phrases = ("refused", "starting up", "shutting down", "closed the connection", "reset by peer")
    return any(word in str(error) for word in phrases)


def _create_sqlite_engine(url: URL) -> Engine:
    """SQLite with a write-ahead log, synced at each commit.

    Writers queue at the start of a transaction.
    """
    if url.database:
        _require_own_file(Path(url.database).absolute())
        make_folder(Path(url.database).absolute().parent)
        with suppress(OSError):  # SQLite reports what is wrong with the place
            # Users' texts are in it: a new file, and the log that SQLite puts beside it, are private.
            os.close(os.open(url.database, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        connection.isolation_level = None  # `begin` below starts transactions, not the driver
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=ON")  # overwrite erased text in free pages

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _require_own_file(file: Path) -> None:
    """Refuse another program's database: even opening it for writing would change its mode."""
    if not file.is_file():
        return
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    except sqlite3.Error:
        return  # damaged or locked: opening it for writing says so
    if names and "ouroboros_schema" not in names:
        raise StoreError(
            f"{file} is a database of another program. It was not changed.",
            hint="Use another --store, or another path in the URL.",
        )


def scrub_database(engine: Engine) -> None:
    """Rewrite the database, and SQLite's write-ahead log, without the data that was removed.

    PostgreSQL's own log and backups are not touched: the server's configuration decides how long it
    keeps them. Raises `OSError` while another connection reads.
    """
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM FULL records, logs, entries")
        return
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute("VACUUM")
        (busy, *_) = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        connection.close()
    if busy:
        raise OSError(errno.EBUSY, "database is locked")
