"""Qdrant passes the suite without transactions; a write's outcome is known even if its response is lost.

The tests use the emulator of `ouroboros.testing.qdrant`, or the server at `QDRANT_URL`. Only the
emulator is killed.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from ouroboros.domain.errors import Conflict, StoreError
from ouroboros.stores import faults
from ouroboros.stores.metadata import qdrant as qdrant_metadata
from ouroboros.stores.metadata.qdrant import QdrantMetadata
from ouroboros.stores.open import open_metadata
from ouroboros.stores.qdrant import points as qdrant_points
from ouroboros.stores.qdrant.points import Points
from ouroboros.stores.qdrant.server import QdrantServer
from ouroboros.testing import servers
from ouroboros.testing.processes import run_in_threads
from ouroboros.testing.shared_metadata import SharedMetadataStoreSuite


@pytest.fixture
def url(collection: str) -> str:
    return collection


@pytest.fixture
def store(url: str) -> Iterator[QdrantMetadata]:
    opened = QdrantMetadata(QdrantServer(url))
    yield opened
    opened.close()


class TestQdrant(SharedMetadataStoreSuite):
    @pytest.fixture
    def restart(self, request: pytest.FixtureRequest) -> Callable[[], None]:
        """Kills and restarts the emulator, but not a real server."""
        if "QDRANT_URL" in os.environ:
            return lambda: None
        server = request.getfixturevalue("qdrant")
        return lambda: (server.stop(signal.SIGKILL), server.start())[1]


def test_programs_that_open_a_new_store_at_once_all_succeed(url: str) -> None:
    def open_and_append(_: int) -> int:
        with closing(open_metadata(url)) as opened:
            return opened.append("log", {})

    assert sorted(run_in_threads(6, open_and_append)) == [1, 2, 3, 4, 5, 6]


@pytest.fixture
def overtake(store: QdrantMetadata, url: str, monkeypatch: pytest.MonkeyPatch):
    """Others write so many times between a write of `store` and its reading back."""
    replace = Points.replace

    def by(times: int, *, first: bool = False) -> None:
        def slow(points: Points, *arguments: Any) -> None:
            if points is not store._points:
                return replace(points, *arguments)
            if not first:
                replace(points, *arguments)
            with closing(QdrantMetadata(QdrantServer(url))) as other:
                for _ in range(times):
                    record = other.get("things", "a")
                    assert record is not None
                    other.put("things", "a", {"by": "other"}, expected=record.revision)
            if first:
                replace(points, *arguments)
            return None

        monkeypatch.setattr(Points, "replace", slow)

    return by


def test_a_write_that_was_overwritten_at_once_is_reported_as_successful(
    store: QdrantMetadata, overtake: Callable[..., None]
) -> None:
    store.put("things", "a", {}, expected=0)
    overtake(3)
    assert store.put("things", "a", {"by": "me"}, expected=1).revision == 2
    record = store.get("things", "a")
    assert record is not None
    assert (record.value, record.revision) == ({"by": "other"}, 5)


def test_a_write_that_lost_the_race_conflicts(
    store: QdrantMetadata, overtake: Callable[..., None]
) -> None:
    store.put("things", "a", {}, expected=0)
    overtake(3, first=True)
    with pytest.raises(Conflict):
        store.put("things", "a", {"by": "me"}, expected=1)
    record = store.get("things", "a")
    assert record is not None
    assert (record.value, record.revision) == ({"by": "other"}, 4)


def test_an_unknown_outcome_raises_store_error(
    store: QdrantMetadata, overtake: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qdrant_metadata, "REMEMBERED_WRITES", 2)
    store.put("things", "a", {}, expected=0)
    overtake(3)
    with pytest.raises(StoreError, match="it is unknown whether"):
        store.put("things", "a", {"by": "me"}, expected=1)


def test_a_write_that_is_missing_afterwards_raises_store_error(
    store: QdrantMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Points, "insert", lambda *_: None)
    with pytest.raises(StoreError, match="it is unknown whether"):
        store.append("log", {})
    with pytest.raises(StoreError, match="it is unknown whether"):
        store.put("things", "a", {}, expected=0)


@pytest.fixture
def lost_responses(store: QdrantMetadata, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write arrives, and its first answer is lost."""
    from qdrant_client.http.exceptions import ResponseHandlingException

    monkeypatch.setattr(faults, "_PAUSES", (0.0, 0.0))
    client, upsert, answers = store._server._client, store._server._client.upsert, []

    def cut_off(*arguments, **named):
        answer = upsert(*arguments, **named)
        answers.append(answer)
        if len(answers) % 2:
            raise ResponseHandlingException(OSError("Server disconnected without sending a response."))
        return answer

    monkeypatch.setattr(client, "upsert", cut_off)


@pytest.mark.usefixtures("lost_responses")
def test_a_write_whose_response_was_lost_is_done_once(store: QdrantMetadata) -> None:
    assert [store.append("log", {"n": n}) for n in range(3)] == [1, 2, 3]
    assert store.put("things", "a", {"n": 1}, expected=0).revision == 1
    assert store.put("things", "a", {"n": 2}, expected=1).revision == 2
    store.delete("things", "a", expected=2)
    assert [e.value["n"] for e in store.read("log")] == [0, 1, 2]
    assert store.get("things", "a") is None


def test_results_do_not_depend_on_the_page_size(
    store: QdrantMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qdrant_points, "_VALUES_PER_PAGE", 3)
    monkeypatch.setattr(qdrant_points, "_IDS_PER_PAGE", 4)
    keys = [f"k{n:02d}" for n in range(11)]
    for key in reversed(keys):
        store.put("things", key, {"key": key}, expected=0)
        store.append("log", {})
    assert [r.value["key"] for r in store.scan("things", limit=10)] == keys[:10]
    assert [r.key for r in store.scan("things", after="k08")] == keys[9:]
    assert [e.seq for e in store.read("log")] == list(range(1, 12))
    assert [e.seq for e in store.read("log", after=4, limit=5)] == [5, 6, 7, 8, 9]


def test_removed_values_are_deleted_at_once_and_their_points_after_a_day(
    store: QdrantMetadata, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3):
        store.append("log", {"text": "secret"})
        store.put("things", f"{n}", {"text": "secret"}, expected=0)
        store.delete("things", f"{n}", expected=1)
    store.erase("log", 1, 3)
    payloads = _payloads(url)
    assert len(payloads) == 6
    assert "secret" not in str(payloads)
    monkeypatch.setattr(qdrant_metadata, "TOMBSTONE_SECONDS", -2)
    store.scrub()
    assert [p["seq"] for p in _payloads(url)] == [3]
    assert store.put("things", "0", {}, expected=0).revision == 1
    assert store.append("log", {}) == 4


def test_removals_delete_older_tombstones(
    store: QdrantMetadata, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        store.append("log", {})
    store.put("things", "a", {}, expected=0)
    store.delete("things", "a", expected=1)
    store.erase("log", 1, 2)
    monkeypatch.setattr(qdrant_metadata, "TOMBSTONE_SECONDS", -2)
    store.erase("log", 3, 3)
    store.put("things", "b", {}, expected=0)
    store.delete("things", "b", expected=1)
    assert [p["seq"] for p in _payloads(url)] == [4]


def test_acknowledged_writes_survive_a_killed_server(qdrant: servers.ServerProcess) -> None:
    with closing(open_metadata(f"qdrant://127.0.0.1:{qdrant.port}/killed")) as store:
        record = store.put("things", "a", {"n": 1}, expected=0)
        store.append("log", {})
        qdrant.stop(signal.SIGKILL)
        qdrant.start()
        assert store.get("things", "a") == record
        assert store.append("log", {}) == 2


def test_operations_wait_for_a_server_that_restarts(qdrant: servers.ServerProcess) -> None:
    with closing(open_metadata(f"qdrant://127.0.0.1:{qdrant.port}/restarted")) as store:
        qdrant.stop(signal.SIGKILL)
        later = threading.Thread(target=lambda: (time.sleep(0.5), qdrant.start()))
        later.start()
        assert store.put("things", "a", {}, expected=0).revision == 1
        later.join()


def _payloads(url: str) -> list[dict]:
    with closing(QdrantServer(url)) as server:
        points, _ = server.request(lambda q: q.scroll(server.name, limit=100))
    return [point.payload or {} for point in points]
