"""A real PostgreSQL passes the suite; operations wait for a restart, and refusals raise `StoreError`."""

import signal
import threading
import time
from collections.abc import Callable

import pytest

from ouroboros.domain.errors import InvalidInput, StoreError
from ouroboros.stores.metadata.sql import SqlMetadata
from ouroboros.stores.open import open_metadata
from ouroboros.testing.processes import run_in_processes
from ouroboros.testing.servers import ServerProcess
from ouroboros.testing.shared_metadata import SharedMetadataStoreSuite


@pytest.fixture
def url(database: str) -> str:
    return database


class TestPostgres(SharedMetadataStoreSuite):
    @pytest.fixture
    def restart(self, postgres: ServerProcess) -> Callable[[], None]:
        def stop_and_start() -> None:
            postgres.stop()
            postgres.start()

        return stop_and_start


def test_processes_that_open_a_new_store_at_once_all_succeed(url: str) -> None:
    assert sorted(run_in_processes(3, _open_and_append, url)) == [1, 2, 3]


def test_acknowledged_writes_survive_a_killed_server(url: str, postgres: ServerProcess) -> None:
    store = open_metadata(url)
    record = store.put("things", "a", {"n": 1}, expected=0)
    postgres.stop(signal.SIGQUIT)  # PostgreSQL's own crash: no checkpoint, no goodbye
    postgres.start()
    assert store.get("things", "a") == record
    assert store.append("log", {}) == 1
    store.close()


def test_operations_wait_for_a_server_that_restarts(url: str, postgres: ServerProcess) -> None:
    store = open_metadata(url)
    postgres.stop()
    later = threading.Thread(target=lambda: (time.sleep(0.5), postgres.start()))
    later.start()
    assert store.put("things", "a", {}, expected=0).revision == 1
    later.join()
    store.close()


def test_an_interrupted_write_raises_store_error_and_the_next_one_works(url: str) -> None:
    store = SqlMetadata(url)
    admin = SqlMetadata(url)
    store.put("things", "a", {"n": 1}, expected=0)
    with pytest.raises(StoreError) as caught, store._writing() as connection:
        with admin._reading() as other:
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
            other.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")
        connection.exec_driver_sql("UPDATE records SET value = '{}'")
    assert caught.value.hint
    record = store.get("things", "a")
    assert record is not None
    assert record.value == {"n": 1}
    assert store.put("things", "a", {"n": 2}, expected=1).revision == 2
    store.close()
    admin.close()


def test_scrub_runs_while_the_store_is_open(url: str) -> None:
    store = open_metadata(url)
    store.append("log", {"text": "secret"})
    store.erase("log", 1, 1)
    store.scrub()
    assert store.read("log") == []
    store.close()


@pytest.mark.parametrize(
    ("change", "words", "hint"),
    [
        (("/test", "/absent"), "does not exist", "createdb"),
        (("postgres@", "nobody-here:hunter2@"), "does not exist", "createuser"),
        (("127.0.0.1", "host.invalid"), "resolve host", "host"),
    ],
)
def test_a_refusal_of_the_server_raises_store_error(
    url: str, change: tuple[str, str], words: str, hint: str
) -> None:
    with pytest.raises(StoreError, match=words) as caught:
        open_metadata(url.replace(*change))
    assert hint in caught.value.hint
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", ["postgresql://u:hunter2@host:port/db", "postgresql://u:hunter2@host", "postgresql://"]
)
def test_a_malformed_url_is_refused_and_not_repeated_in_the_error(wrong: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be read") as caught:
        open_metadata(wrong)
    assert "hunter2" not in str(caught.value)


def _open_and_append(_: int, url: str) -> int:
    store = open_metadata(url)
    try:
        return store.append("log", {})
    finally:
        store.close()
