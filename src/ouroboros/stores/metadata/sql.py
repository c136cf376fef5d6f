"""Metadata in an SQL database through SQLAlchemy: SQLite or PostgreSQL."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import URL, Connection, Row, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from ouroboros.domain.errors import Conflict, StoreError
from ouroboros.stores.metadata.base import (
    Guard,
    Json,
    LogEntry,
    Record,
    check_key,
    dump_json,
    parse_json,
)
from ouroboros.stores.metadata.connect import BUSY_SECONDS, WRITES, create_sql_engine, scrub_database
from ouroboros.stores.metadata.schema import ENTRIES, LOGS, RECORDS, create_or_upgrade, is_current

_INSERTS = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""Both support INSERT ... ON CONFLICT."""


class SqlMetadata:
    """Records with revisions, and logs that remember their last sequence number after an erasure.

    Every write is one durable transaction.
    """

    def __init__(self, url: str | URL) -> None:
        parsed = make_url(url)
        self._location = _describe_location(parsed)
        with self._convert_errors():
            self._engine = create_sql_engine(parsed)
            self._insert_statement = _INSERTS[self._engine.dialect.name]
        try:
            self._prepare_tables()
        except BaseException:
            self.close()
            raise

    def get(self, collection: str, key: str) -> Record | None:
        query = select(RECORDS).where(RECORDS.c.collection == collection, RECORDS.c.key == key)
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
        return _to_record(row) if row else None

    def put(
        self, collection: str, key: str, value: Json, *, expected: int, guards: Sequence[Guard] = ()
    ) -> Record:
        check_key(collection)
        check_key(key)
        text = dump_json(value)
        with self._writing() as connection:
            _check_guards(connection, guards)
            if expected == 0:
                row = {"collection": collection, "key": key, "revision": 1, "value": text}
                insertion = self._insert_statement(RECORDS).values(row).on_conflict_do_nothing()
                written = connection.execute(insertion.returning(RECORDS.c.revision)).all()
            else:
                change = update(RECORDS).where(*_matches_revision(collection, key, expected))
                written = connection.execute(change.values(value=text, revision=expected + 1)).rowcount
            if not written:
                raise _conflict_error(collection, key, expected)
        return Record(key, parse_json(text), expected + 1)

    def delete(self, collection: str, key: str, *, expected: int) -> None:
        with self._writing() as connection:
            deleted = connection.execute(
                delete(RECORDS).where(*_matches_revision(collection, key, expected))
            ).rowcount
            if not deleted:
                raise _conflict_error(collection, key, expected)

    def scan(
        self, collection: str, *, prefix: str = "", after: str = "", limit: int = 1000
    ) -> list[Record]:
        key = RECORDS.c.key
        query = select(RECORDS).where(RECORDS.c.collection == collection, key > after)
        if prefix:
            query = query.where(key >= prefix, func.substr(key, 1, len(prefix)) == prefix)
            end = _first_key_after(prefix)
            query = query.where(key < end) if end else query
        with self._reading() as connection:
            return [
                _to_record(row) for row in connection.execute(query.order_by(key).limit(limit)).all()
            ]

    def append(self, log: str, value: Json, *, guards: Sequence[Guard] = ()) -> int:
        check_key(log)
        text = dump_json(value)
        insertion = self._insert_statement(LOGS).values(log=log, last=1)
        next_seq = insertion.on_conflict_do_update(
            index_elements=[LOGS.c.log], set_={"last": LOGS.c.last + 1}
        ).returning(LOGS.c.last)
        with self._writing() as connection:
            _check_guards(connection, guards)
            seq = connection.execute(next_seq).scalar_one()
            connection.execute(insert(ENTRIES).values(log=log, seq=seq, value=text))
        return seq

    def read(self, log: str, *, after: int = 0, limit: int = 1000) -> list[LogEntry]:
        query = select(ENTRIES).where(ENTRIES.c.log == log, ENTRIES.c.seq > after)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(ENTRIES.c.seq).limit(limit)).all()
        return [LogEntry(row.seq, parse_json(row.value)) for row in rows]

    def erase(self, log: str, first: int, last: int) -> None:
        between = ENTRIES.c.seq.between(first, last)
        with self._writing() as connection:
            connection.execute(delete(ENTRIES).where(ENTRIES.c.log == log, between))

    def scrub(self) -> None:
        with self._convert_errors():
            scrub_database(self._engine)

    def collections(self) -> list[str]:
        with self._reading() as connection:
            return sorted(connection.execute(select(RECORDS.c.collection).distinct()).scalars())

    def logs(self) -> list[str]:
        with self._reading() as connection:
            return sorted(connection.execute(select(LOGS.c.log)).scalars())

    def last(self, log: str) -> int:
        with self._reading() as connection:
            return connection.execute(select(LOGS.c.last).where(LOGS.c.log == log)).scalar() or 0

    def close(self) -> None:
        self._engine.dispose()

    def _prepare_tables(self) -> None:
        """Create or upgrade the tables. Raises `StoreError` if a newer program created them."""
        with self._reading() as connection:
            is_ready = is_current(connection, self._location)
        if not is_ready:
            with self._writing() as connection:
                create_or_upgrade(connection, self._location)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._convert_errors(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        writer = self._engine.execution_options(**{WRITES: True})
        with self._convert_errors(), writer.begin() as connection:
            yield connection

    @contextmanager
    def _convert_errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            reason, hint = _explain_error(str(getattr(error, "orig", None) or error))
            message = f"The metadata store at {self._location} failed: {reason}."
            raise StoreError(message, hint=hint) from error


_HINTS = {
    "database is locked": f"Another process has been writing for over {BUSY_SECONDS} s; try again.",
    "disk is full": "Free some space there and try again.",
    "readonly": "Check its owner and permissions, or use another --store.",
    "unable to open": "Check the folder's owner and permissions, or use another --store.",
    "not a database": "Another file is in the store's place; use another --store.",
    "malformed": "The file is damaged; restore it from a backup.",
    "disk I/O": "Check the disk; restore from a backup if it is damaged.",
    "password": "Set it as for PostgreSQL's own tools: PGPASSWORD, ~/.pgpass or PGSERVICE.",
    "does not exist": "Create it with PostgreSQL's createdb or createuser, or correct the URL.",
    "permission denied": "Let this user create tables there, or give it a database of its own.",
    "Connection refused": "Start the server, or correct its host and port.",
    "resolve host": "Correct the host in the URL.",
    "lock timeout": f"Another process has been writing for over {BUSY_SECONDS} s; try again.",
    "connection": "The connection broke, so the last write may or may not have succeeded. Try again.",
}


def _describe_location(url: URL) -> str:
    """A store's file, or its host and database, for messages. Never a user or a password."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    port = f":{url.port}" if url.port else ""
    return f"{url.host or 'localhost'}{port}/{url.database or ''}"


def _explain_error(reason: str) -> tuple[str, str]:
    hints = (hint for words, hint in _HINTS.items() if words.lower() in reason.lower())
    return reason, next(hints, "Check that its disk has room and that you may write there.")


def _to_record(row: Row) -> Record:
    return Record(row.key, parse_json(row.value), row.revision)


def _check_guards(connection: Connection, guards: Sequence[Guard]) -> None:
    """Raise `Fenced` unless all guards hold. Their records cannot change before the transaction ends."""
    for guard in guards:
        query = select(RECORDS.c.value).where(
            RECORDS.c.collection == guard.collection, RECORDS.c.key == guard.key
        )
        # FOR SHARE on PostgreSQL; SQLite's writers are alone from the start of their transaction.
        text = connection.execute(query.with_for_update(read=True)).scalar_one_or_none()
        if not guard.holds(parse_json(text) if text is not None else None):
            raise guard.error()


def _matches_revision(collection: str, key: str, revision: int) -> tuple:
    return (
        RECORDS.c.collection == collection,
        RECORDS.c.key == key,
        RECORDS.c.revision == revision,
    )


def _first_key_after(prefix: str) -> str | None:
    """The first key, by code point, after all keys that start with `prefix`; None if there is none."""
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return None
    next_code_point = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if next_code_point == 0xD800 else next_code_point)


def _conflict_error(collection: str, key: str, expected: int) -> Conflict:
    return Conflict(
        f"{collection} {key!r} is no longer at revision {expected}: another writer changed it.",
        hint="Read it again and retry.",
    )
