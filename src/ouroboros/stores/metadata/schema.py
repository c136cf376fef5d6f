"""The tables of an SQL store, and how those of older programs become them.

A store says which schema its tables have. `UPGRADES[n]` takes it from schema n + 1 to n + 2 through
Alembic's operations, which know what each database can alter; all of them run in one transaction.
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
"""None so far: schema 1 is the first released one, and today's."""

_LOCK = 0x6F75726F
"""Names the lock of PostgreSQL under which tables are made; SQLite's writers queue anyway."""

_KEY = String(MAX_KEY).with_variant(String(MAX_KEY, collation="C"), "postgresql")
"""Sorts by code point everywhere."""

_meta = MetaData()
SCHEMA_TABLE = Table("ouroboros_schema", _meta, Column("version", Integer, primary_key=True))
RECORDS = Table(
    "records",
    _meta,
    Column("collection", _KEY, primary_key=True),
    Column("key", _KEY, primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("value", Text, nullable=False),
)
LOGS = Table(
    "logs",
    _meta,
    Column("log", _KEY, primary_key=True),
    Column("last", Integer, nullable=False),
)
ENTRIES = Table(
    "entries",
    _meta,
    Column("log", _KEY, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("value", Text, nullable=False),
)


def require_known(connection: Connection, where: str) -> bool:
    """Whether the tables are today's; `StoreError` if a newer program made them."""
    return _version(connection, where) == _today()


def prepare(connection: Connection, where: str) -> None:
    """Create the tables, or upgrade older ones, as part of the connection's transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    found = _version(connection, where)
    if found is None:
        _meta.create_all(connection)
        connection.execute(insert(SCHEMA_TABLE).values(version=_today()))
    elif found < _today():
        _upgrade(connection, found)


def _upgrade(connection: Connection, found: int) -> None:
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    operations = Operations(MigrationContext.configure(connection))
    for step in UPGRADES[found - 1 :]:
        step(operations)
    connection.execute(update(SCHEMA_TABLE).values(version=_today()))


def _version(connection: Connection, where: str) -> int | None:
    if not inspect(connection).has_table(SCHEMA_TABLE.name):
        return None
    found = connection.execute(select(SCHEMA_TABLE.c.version)).scalar_one_or_none()
    if found is not None and found > _today():
        raise StoreError(
            f"The store at {where} has schema {found}; this program knows up to {_today()}.",
            hint="Use the version of ouroboros that wrote it, or a newer one.",
        )
    return found


def _today() -> int:
    return len(UPGRADES) + 1
