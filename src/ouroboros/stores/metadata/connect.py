"""Database engines, configured so that a committed write is on disk."""

import errno
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.engine import Engine

from ouroboros.stores.folders import make_folder

BUSY_SECONDS = 30
"""How long a writer waits for another before it gives up."""

WRITES = "ouroboros_writes"
"""The execution option of connections whose transaction will write."""


def connect(url: URL) -> Engine:
    """An engine for `url`; SQLite's folder is created."""
    return _sqlite(url) if url.get_backend_name() == "sqlite" else create_engine(url)


def _sqlite(url: URL) -> Engine:
    """SQLite with a write-ahead log, synced at each commit; writers queue instead of failing halfway."""
    if url.database:
        make_folder(Path(url.database).absolute().parent)
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions begin below, not where the driver thinks
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=ON")  # erased text leaves no trace in free pages

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def scrub(engine: Engine) -> None:
    """Rewrite the database without what was removed from it, its write-ahead log included."""
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute("VACUUM")
        (busy, *_) = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        connection.close()
    if busy:
        raise OSError(errno.EBUSY, "database is locked")
