"""Metadata in an SQL database through SQLAlchemy: SQLite, with PostgreSQL's dialect in mind."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import (
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    delete,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from ouroboros.domain.errors import Conflict, StoreError
from ouroboros.stores.metadata.base import Entry, Json, Record

SCHEMA = 1
"""Raised by one with each change of the tables."""

_meta = MetaData()
_schema = Table("schema", _meta, Column("version", Integer, nullable=False))
_records = Table(
    "records",
    _meta,
    Column("collection", String(64), primary_key=True),
    Column("key", String(512), primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("value", Text, nullable=False),
)
_entries = Table(
    "entries",
    _meta,
    Column("log", String(512), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("value", Text, nullable=False),
)


class SqlMetadata:
    """Two tables: records with revisions, and log entries. Every write is one durable transaction."""

    def __init__(self, url: str) -> None:
        self._where = make_url(url).render_as_string(hide_password=True)
        with self._errors():
            self._engine = _engine(url)
            with self._engine.execution_options(write=True).begin() as connection:
                self._prepare(connection)

    def get(self, collection: str, key: str) -> Record | None:
        chosen = select(_records).where(_records.c.collection == collection, _records.c.key == key)
        with self._read() as connection:
            row = connection.execute(chosen).one_or_none()
        return Record(row.key, json.loads(row.value), row.revision) if row else None

    def put(self, collection: str, key: str, value: Json, *, expected: int) -> Record:
        text = _dump(value)
        with self._write() as connection:
            if expected == 0:
                written = self._insert(connection, collection, key, text)
            else:
                written = connection.execute(
                    update(_records)
                    .where(*_at(collection, key, expected))
                    .values(value=text, revision=expected + 1)
                ).rowcount
            if not written:
                raise _moved(collection, key, expected)
        return Record(key, json.loads(text), expected + 1)

    def delete(self, collection: str, key: str, *, expected: int) -> None:
        with self._write() as connection:
            gone = connection.execute(delete(_records).where(*_at(collection, key, expected))).rowcount
            if not gone:
                raise _moved(collection, key, expected)

    def scan(
        self, collection: str, *, prefix: str = "", after: str = "", limit: int = 1000
    ) -> list[Record]:
        chosen = (
            select(_records)
            .where(_records.c.collection == collection, _records.c.key > after)
            .where(_records.c.key >= prefix)
            .where(func.substr(_records.c.key, 1, len(prefix)) == prefix)
            .order_by(_records.c.key)
            .limit(limit)
        )
        with self._read() as connection:
            rows = connection.execute(chosen).all()
        return [Record(r.key, json.loads(r.value), r.revision) for r in rows]

    def append(self, log: str, value: Json) -> int:
        last = select(func.coalesce(func.max(_entries.c.seq), 0)).where(_entries.c.log == log)
        with self._write() as connection:
            seq = connection.execute(last).scalar_one() + 1
            connection.execute(insert(_entries).values(log=log, seq=seq, value=_dump(value)))
        return seq

    def read(self, log: str, *, after: int = 0, limit: int = 1000) -> list[Entry]:
        chosen = (
            select(_entries)
            .where(_entries.c.log == log, _entries.c.seq > after)
            .order_by(_entries.c.seq)
            .limit(limit)
        )
        with self._read() as connection:
            return [Entry(r.seq, json.loads(r.value)) for r in connection.execute(chosen).all()]

    def close(self) -> None:
        self._engine.dispose()

    def _prepare(self, connection: Connection) -> None:
        """Create the tables in an empty database; refuse one written by a newer program."""
        _meta.create_all(connection)
        found = connection.execute(select(_schema.c.version)).scalar_one_or_none()
        if found is None:
            connection.execute(insert(_schema).values(version=SCHEMA))
        elif found != SCHEMA:
            raise StoreError(
                f"The store at {self._where} has schema {found}; this program knows schema {SCHEMA}.",
                hint="Use the version of ouroboros that wrote it, or a newer one.",
            )

    def _insert(self, connection: Connection, collection: str, key: str, text: str) -> int:
        row = {"collection": collection, "key": key, "revision": 1, "value": text}
        try:
            return connection.execute(insert(_records).values(row)).rowcount
        except IntegrityError:
            return 0

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with self._errors(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._errors(), self._engine.execution_options(write=True).begin() as connection:
            yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            cause = getattr(error, "orig", None) or error
            raise StoreError(
                f"The metadata store at {self._where} failed: {cause}.",
                hint="Check that its disk has room and that you may write there.",
            ) from error


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed)
    if parsed.database:
        Path(parsed.database).absolute().parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def _configure(connection, _) -> None:
        connection.isolation_level = None  # transactions begin where we say
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _at(collection: str, key: str, revision: int) -> tuple:
    return (
        _records.c.collection == collection,
        _records.c.key == key,
        _records.c.revision == revision,
    )


def _dump(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _moved(collection: str, key: str, expected: int) -> Conflict:
    return Conflict(
        f"{collection} {key!r} is no longer at revision {expected}: somebody else wrote it.",
        hint="Read it again and decide anew.",
    )
