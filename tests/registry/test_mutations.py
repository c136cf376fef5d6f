"""A damaged record or event stops nothing else: it is named, and every other adapter goes on."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import OuroborosError
from ouroboros.domain.events import FeedbackGiven
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.training import Job
from ouroboros.domain.weights import AdapterFiles
from ouroboros.registry.erasure import erase_events, find_user_events
from ouroboros.registry.fsck import check_store, collect_garbage, repair_heads
from ouroboros.registry.registry import Registry
from ouroboros.stores.blobs.memory import MemoryBlobs
from ouroboros.stores.metadata.memory import MemoryMetadata

MUTATED, SOUND = AdapterId("mutated"), AdapterId("sound")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def fill(base: BaseModel, make_files: Callable[[object], AdapterFiles]) -> Registry:
    """Two adapters with everything that can be stored of one."""
    registry = Registry(MemoryMetadata(), MemoryBlobs())
    for name in (MUTATED, SOUND):
        registry.create_adapter(name, AdapterConfig(), base, make_files((name, 1)))
        event = registry.journal.append_examples(name, [TrainingExample("a", "b")])
        registry.jobs.add(Job(name, event, TrainingConfig(), NOW))
        registry.commit_version(name, make_files((name, 2)), parent=1, cause="trained", events=event)
        for user in ("ann", "bob"):
            signal = FeedbackSignal.user_correction(f"for {user}")
            registry.journal.append(name, FeedbackGiven("q", "a", signal, user, NOW, user=user))
        registry.rollback(VersionRef(name, 1))
        registry.rollback(VersionRef(name, 2))
    return registry


def mutate(text: str, rng: random.Random) -> str:
    """Change, drop or insert a character, cut the text off, or put something else in its place."""
    at = rng.randrange(len(text))
    return rng.choice(
        [
            text[:at] + chr(rng.randrange(32, 127)) + text[at + 1 :],
            text[:at] + text[at + 1 :],
            text[:at] + rng.choice('",:{}[]0\\\u00e9') + text[at:],
            text[:at],
            rng.choice(["", "{}", "null", "[]", "7", '"x"', "[" * 100_000]),
        ]
    )


def damage_one(registry: Registry, rng: random.Random) -> str:
    """Damage one record or entry of the adapter `MUTATED`; returns its collection or log."""
    metadata = registry.stores[0]
    assert isinstance(metadata, MemoryMetadata)
    records = [
        (collection, key)
        for collection, rows in metadata._records.items()
        for key in rows
        if key.startswith("mutated")
    ]
    entries = [(log, seq) for log in ("journal/mutated", "moves/mutated") for seq in (1, 2)]
    chosen = rng.randrange(len(records) + len(entries))
    if chosen < len(records):
        collection, key = records[chosen]
        text, revision = metadata._records[collection][key]
        metadata._records[collection][key] = (mutate(text, rng), revision)
        return collection
    log, seq = entries[chosen - len(records)]
    metadata._logs[log][seq] = mutate(metadata._logs[log][seq], rng)
    return log


@pytest.mark.parametrize("seed", [*range(200), pytest.param(-1, marks=pytest.mark.slow)])
def test_a_mutated_record_stops_no_other_adapter(
    base: BaseModel, make_files: Callable[[object], AdapterFiles], seed: int
) -> None:
    for number in range(10_000, 20_000) if seed < 0 else (seed,):
        registry = fill(base, make_files)
        place = damage_one(registry, random.Random(number))
        # Everything that walks over all adapters goes on, and so does the other adapter.
        assert SOUND in [adapter.id for adapter in registry.list_adapters()], (number, place)
        report = check_store(registry)
        assert not [d for d in report.damages if d.ref.adapter == SOUND]
        repair_heads(registry, report)
        registry.list_unfinished_jobs()
        collect_garbage(registry, timedelta(0))
        events = find_user_events(registry, "ann")
        assert events[SOUND] == [2]
        erased = erase_events(registry, events)
        assert [n.events for n in erased.notes if n.adapter == SOUND] == [(2,)]
        assert registry.load_files(registry.get_version(VersionRef(SOUND))).weights
        registry.journal.append_examples(SOUND, [TrainingExample("c", "d")])
        registry.rollback(VersionRef(SOUND, 1))
        # What is left of the damaged adapter is sound, or refused in words.
        try:
            registry.get_version(VersionRef(MUTATED))
            registry.list_head_moves(MUTATED)
            registry.delete_adapter(MUTATED)
        except OuroborosError:
            pass
        registry.delete_adapter(SOUND)


def test_fsck_finds_every_mutation_of_an_event(
    base: BaseModel, make_files: Callable[[object], AdapterFiles]
) -> None:
    rng = random.Random(5)
    for number in range(300):
        registry = fill(base, make_files)
        metadata = registry.stores[0]
        assert isinstance(metadata, MemoryMetadata)
        stored = metadata._logs["journal/mutated"]
        seq = rng.randrange(1, 4)
        before, events = stored[seq], registry.journal.read(MUTATED)
        stored[seq] = mutate(before, rng)
        if registry.journal.read(MUTATED) == events:
            continue  # as white space between two values
        report = check_store(registry)
        assert [(d.ref.adapter, d.event) for d in report.damages] == [(MUTATED, seq)], number
        repair_heads(registry, report)
        assert check_store(registry).damages == ()
        assert [e.seq for e in registry.journal.read(MUTATED)] == [n for n in (1, 2, 3) if n != seq]
