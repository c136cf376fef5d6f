"""The journal keeps events in order, as they were, until they are erased."""

from datetime import UTC, datetime

import pytest

from ouroboros.domain.data import Message, TrainingExample
from ouroboros.domain.errors import StoreError
from ouroboros.domain.events import Event, ExamplesGiven, FeedbackGiven
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.names import AdapterId
from ouroboros.registry.journal import Journal
from ouroboros.stores.metadata.memory import MemoryMetadata

TICKETS = AdapterId("tickets")
NOW = datetime(2026, 1, 2, 3, 4, 5, 678, UTC)
EVENTS: list[Event] = [
    ExamplesGiven((TrainingExample("naïve 🐍", "out", 0.1 + 0.2), TrainingExample("a", "b")), NOW),
    ExamplesGiven((TrainingExample((Message("system", "be kind"), Message("user", "hi")), "yo"),), NOW),
    FeedbackGiven("q", "a", FeedbackSignal.failure(-0.5), "k1", NOW, user="u", logprobs=(-0.25, -3.0)),
    FeedbackGiven("q", "a", FeedbackSignal.preference_pair("x", "y"), "k2", NOW, answered="tickets@3"),
    FeedbackGiven((Message("user", "q"),), "a", FeedbackSignal.user_correction("c"), "k3", NOW),
]


@pytest.fixture
def metadata() -> MemoryMetadata:
    return MemoryMetadata()


def test_events_read_as_they_were_written_in_order(metadata: MemoryMetadata) -> None:
    journal = Journal(metadata)
    assert [journal.append(TICKETS, event) for event in EVENTS] == [1, 2, 3, 4, 5]
    assert [(j.seq, j.event) for j in journal.read(TICKETS)] == list(enumerate(EVENTS, start=1))
    assert [j.seq for j in journal.read(TICKETS, after=2, limit=2)] == [3, 4]
    assert journal.last_seq(TICKETS) == 5


def test_each_adapter_has_its_own(metadata: MemoryMetadata) -> None:
    journal = Journal(metadata)
    journal.append_examples(TICKETS, [TrainingExample("a", "b")])
    other = AdapterId("other")
    assert (journal.read(other), journal.last_seq(other)) == ([], 0)


def test_erased_events_are_gone_and_their_places_stay_empty(metadata: MemoryMetadata) -> None:
    journal = Journal(metadata)
    for event in EVENTS:
        journal.append(TICKETS, event)
    journal.erase(TICKETS, 4, 5)
    assert [j.seq for j in journal.read(TICKETS)] == [1, 2, 3]
    assert journal.last_seq(TICKETS) == 5
    assert journal.append(TICKETS, EVENTS[0]) == 6


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "dream"},
        {},
        {"kind": "examples", "examples": [], "at": "2026-01-01T00:00:00Z", "mood": 1},
        {"kind": "examples", "examples": [{"input": "a"}], "at": "2026-01-01T00:00:00Z"},
        {"kind": "examples", "examples": [], "at": "yesterday"},
    ],
)
def test_an_event_that_this_program_did_not_write_is_refused(
    metadata: MemoryMetadata, value: dict
) -> None:
    metadata.append("journal/tickets", value)
    with pytest.raises(StoreError, match="event 1 of tickets"):
        Journal(metadata).read(TICKETS)
