"""The journal keeps events in order, as they were, until they are erased."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from ouroboros.domain.data import Message, TrainingExample
from ouroboros.domain.errors import InvalidExample
from ouroboros.domain.events import ExamplesGiven, FeedbackGiven
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.names import AdapterId
from ouroboros.registry.codec import encode
from ouroboros.registry.journal import Journal
from ouroboros.stores.metadata.memory import MemoryMetadata

TICKETS = AdapterId("tickets")
NOW = datetime(2026, 1, 2, 3, 4, 5, 678, UTC)
EVENTS: list[Any] = [
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
def test_an_event_that_this_program_did_not_write_is_left_out_and_named(
    metadata: MemoryMetadata, value: dict
) -> None:
    journal = Journal(metadata)
    journal.append(TICKETS, EVENTS[0])
    metadata.append("journal/tickets", value)
    journal.append(TICKETS, EVENTS[1])
    assert [j.seq for j in journal.read(TICKETS)] == [1, 3]
    assert [j.seq for j in journal.read_all(TICKETS)] == [1, 3]
    assert [j.seq for j in journal.read(TICKETS, after=1, limit=1)] == [3]
    (damage,) = journal.find_damage(TICKETS, 0, 0)
    assert (damage.seq, damage.missing) == (2, False)
    assert "event 2 of tickets" in damage.words


def test_an_event_that_was_changed_is_left_out_and_named(metadata: MemoryMetadata) -> None:
    journal = Journal(metadata)
    for event in EVENTS[:3]:
        journal.append(TICKETS, event)
    stored = metadata._logs["journal/tickets"]
    stored[2] = stored[2].replace("be kind", "be mean")
    assert [j.seq for j in journal.read(TICKETS)] == [1, 3]
    (damage,) = journal.find_damage(TICKETS, 0, 0)
    assert damage.words == "The store's record of event 2 of tickets was changed."


def test_events_that_are_missing_or_cut_off_are_named_and_erased_ones_are_not(
    metadata: MemoryMetadata,
) -> None:
    journal = Journal(metadata)
    for event in EVENTS:
        journal.append(TICKETS, event)
    journal.erase(TICKETS, 2, 2)
    assert list(journal.find_damage(TICKETS, 0, 5)) == []
    stored = metadata._logs["journal/tickets"]
    del stored[3], stored[5]
    assert [d.seq for d in journal.find_damage(TICKETS, 0, 5)] == [3, 5]
    metadata._last["journal/tickets"] = 4
    assert [d.seq for d in journal.find_damage(TICKETS, 0, 5)] == [3, 5]
    for seq in (3, 5):
        journal.erase(TICKETS, seq, seq)
    assert [d.seq for d in journal.find_damage(TICKETS, 0, 4)] == []


def test_events_of_older_programs_have_no_digest_and_gaps_before_the_first_are_unknown(
    metadata: MemoryMetadata,
) -> None:
    journal = Journal(metadata)
    for event in EVENTS[:3]:
        metadata.append("journal/tickets", encode(event))
    metadata.erase("journal/tickets", 2, 2)
    assert [j.event for j in journal.read(TICKETS)] == [EVENTS[0], EVENTS[2]]
    assert journal.append(TICKETS, EVENTS[3]) == 4
    assert journal.append(TICKETS, EVENTS[4]) == 5
    assert list(journal.find_damage(TICKETS, 0, 3)) == []
    metadata.erase("journal/tickets", 4, 5)
    metadata.append("journal/tickets", encode(EVENTS[0]))
    assert list(journal.find_damage(TICKETS, 0, 3)) == []


@pytest.mark.parametrize(
    "event",
    [
        replace(EVENTS[2], user=42),
        replace(EVENTS[2], key=7),
        replace(EVENTS[2], signal=FeedbackSignal.failure(-0.5), logprobs=("low",)),
        replace(EVENTS[2], at="yesterday"),
        replace(EVENTS[2], prompt=3.5),
    ],
    ids=["user", "key", "log-probabilities", "time", "prompt"],
)
def test_an_event_that_could_not_be_read_back_is_refused(
    metadata: MemoryMetadata, event: FeedbackGiven
) -> None:
    with pytest.raises(InvalidExample, match="cannot be stored"):
        Journal(metadata).append(TICKETS, event)
    assert metadata.last("journal/tickets") == 0
