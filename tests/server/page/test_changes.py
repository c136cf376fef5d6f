"""The stream of changes: who is told what, and what a client that was away is told."""

import json
from contextlib import contextmanager

import httpx2
import pytest

from ouroboros.domain.data import TrainingExample
from ouroboros.server.keys import create_key
from ouroboros.testing.backend import FakeBackend
from tests.server.running import run_server


async def create_tickets(engine):
    (await engine.create_adapter("tickets")).unwrap()


@pytest.fixture
def server():
    with run_server(FakeBackend, prepare=create_tickets) as running:
        yield running


@contextmanager
def follow(server, **headers):
    """The events of a stream as they come: (id, changed)."""
    with (
        httpx2.Client(base_url=server.url, timeout=60) as http,
        http.stream("GET", "/v1/events", headers=headers) as stream,
    ):
        yield read_events(stream)


def read_events(stream):
    id = None
    for line in stream.iter_lines():
        if line.startswith("id: "):
            id = line[4:]
        elif line.startswith("data: "):
            yield id, json.loads(line[6:]).get("changed")


def train(server, name="tickets"):
    rows = [TrainingExample("where is my parcel?", "shipping")]
    server.call(server.engine.train_adapter(name, rows)).unwrap()


def test_a_change_is_told_by_its_name(server):
    with follow(server) as events:
        first, missed = next(events)
        assert missed == []
        train(server)
        id, changed = next(events)
        assert changed == ["adapter:tickets"]
        assert id != first


def test_whoever_was_away_is_told_if_anything_is_different(server):
    with follow(server) as events:
        id, _ = next(events)
    with follow(server, **{"last-event-id": id}) as events:
        assert next(events) == (id, [])
    train(server)
    with follow(server, **{"last-event-id": id}) as events:
        current, missed = next(events)
        assert missed == ["*"]
        assert current != id


def test_a_stream_ends_when_the_server_stops(server):
    with follow(server) as events:
        next(events)
        server.loop.call_soon_threadsafe(server.service.draining.set)
        assert [changed for _, changed in events] == [None]  # the event "leaving", and then the end


def test_a_key_is_not_told_of_what_it_may_not_see():
    with run_server(FakeBackend, prepare=create_tickets, keyless=False) as server:
        key, _ = create_key(server.service.records, "shop", scopes=("read",), adapters=("shop/*",))
        with follow(server, authorization=f"Bearer {key}") as events:
            next(events)
            train(server)
            server.call(server.engine.create_adapter("shop/eu")).unwrap()
            assert next(events)[1] == ["adapter:shop/eu"]
