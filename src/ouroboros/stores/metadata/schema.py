"""The tables of an SQL store, and the upgrades of tables that older programs created.

A store records the version of its schema. `UPGRADES[n]` upgrades schema n + 1 to n + 2 through Alembic's
operations, which know what each database can alter. All upgrades run in one transaction.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlalchemy import (
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    insert,
    inspect,
    select,
    text,
    update,
)

from ouroboros.domain.errors import StoreError
from ouroboros.stores.metadata.base import MAX_KEY

if TYPE_CHECKING:
    from alembic.operations import Operations

UPGRADES: tuple[Callable[["Operations"], None], ...] = ()
"""None so far: schema 1 is the first released version and the current one."""

_ADVISORY_LOCK = 0x6F75726F
"""Key of the PostgreSQL lock held while tables are created. SQLite's writers queue anyway."""

_KEY_TYPE = String(MAX_KEY).with_variant(String(MAX_KEY, collation="C"), "postgresql")
"""Sorts by code point in every database."""

_metadata = MetaData()
SCHEMA_TABLE = Table("ouroboros_schema", _metadata, Column("version", Integer, primary_key=True))
RECORDS = Table(
    "records",
    _metadata,
    Column("collection", _KEY_TYPE, primary_key=True),
    Column("key", _KEY_TYPE, primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("value", Text, nullable=False),
)
LOGS = Table(
    "logs",
    _metadata,
    Column("log", _KEY_TYPE, primary_key=True),
    Column("last", Integer, nullable=False),
)
ENTRIES = Table(
    "entries",
    _metadata,
    Column("log", _KEY_TYPE, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("value", Text, nullable=False),
)


def is_current(connection: Connection, location: str) -> bool:
    """Whether the tables have the current schema.

    Raises `StoreError` if a newer program created them.
    """
    return _read_version(connection, location) == _current_version()


def create_or_upgrade(connection: Connection, location: str) -> None:
    """Create or upgrade the tables within the connection's transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
    version = _read_version(connection, location)
    if version is None:
        _metadata.create_all(connection)
        connection.execute(insert(SCHEMA_TABLE).values(version=_current_version()))
    elif version < _current_version():
        _upgrade(connection, version)


def _upgrade(connection: Connection, version: int) -> None:
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    operations = Operations(MigrationContext.configure(connection))
    for step in UPGRADES[version - 1 :]:
        step(operations)
    connection.execute(update(SCHEMA_TABLE).values(version=_current_version()))


def _read_version(connection: Connection, location: str) -> int | None:
    if not inspect(connection).has_table(SCHEMA_TABLE.name):
        return None
    version = connection.execute(select(SCHEMA_TABLE.c.version)).scalar_one_or_none()
    if version is not None and version > _current_version():
        raise StoreError(
            f"The store at {location} has schema {version};"
            f" this program knows up to {_current_version()}.",
            hint="Use the version of ouroboros that wrote it, or a newer one.",
        )
    return version


def _current_version() -> int:
    return len(UPGRADES) + 1
