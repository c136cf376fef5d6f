"""What the registry stores has the keys, names and values that it always had.

`frozen_records.json` holds a record of every kind with every key in it, and with every value of every
enumeration. A change of that file is a change of the stored format: old stores must stay readable.
"""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ouroboros import AdapterLearningEngine, FeedbackSignal, TrainingExample
from ouroboros.domain.events import ExamplesGiven, FeedbackGiven, Pinned, Unpinned
from ouroboros.domain.merging import MergeStrategy
from ouroboros.domain.probe_scores import ProbeScores
from ouroboros.domain.records import Adapter, HeadMoved, Version
from ouroboros.domain.routing import AdapterProfile
from ouroboros.domain.training import Job
from ouroboros.registry.codec import decode, encode
from ouroboros.registry.erasure import ErasureNote, Remake
from ouroboros.registry.leases import Lease
from ouroboros.registry.registry import Registry
from ouroboros.stores.blobs.memory import MemoryBlobs
from ouroboros.stores.metadata.memory import MemoryMetadata
from ouroboros.testing.backend import FakeBackend

FROZEN: list[dict[str, Any]] = json.loads((Path(__file__).parent / "frozen_records.json").read_text())

CLASSES = {
    "versions": Version,
    "adapters": Adapter,
    "jobs": Job,
    "leases": Lease,
    "scores": ProbeScores,
    "sketches": AdapterProfile,
    "forgetting": ErasureNote,
    "remakes": Remake,
    "moves": HeadMoved,
    "journal examples": ExamplesGiven,
    "journal feedback": FeedbackGiven,
    "journal pinned": Pinned,
    "journal unpinned": Unpinned,
}
"""The classes of the records that are encoded; the other records are written as plain JSON."""

ADDED = {"adapters": {"epoch": 0, "erasures": 0}}
"""Fields that records of older stores lack, with what they mean there."""

PLAIN = {"numbers", "sweeps", "condemned", "erased", "adapters deleted"}

KEYS = {
    "versions": r"NAME@\d{9}",
    "numbers": r"NAME",
    "adapters": r"NAME",
    "jobs": r"NAME#\d+",
    "leases": r"NAME",
    "scores": r"NAME",
    "sketches": r"NAME",
    "forgetting": r"NAME",
    "remakes": r"NAME",
    "erased": r"NAME",
    "sweeps": r"[0-9a-z]{64}",
    "condemned": r"[0-9a-z]{64}",
}
"""Each collection, and the form of its keys; NAME is an adapter's."""


def kind_of(collection: str, value: Any) -> str:
    """Like "versions", "journal feedback" or "adapters deleted"."""
    name = collection.partition("/")[0]
    if name == "journal":
        return f"{name} {value['kind']}"
    return f"{name} deleted" if "deleted" in value else name


RECORDS = [(kind_of(row["in"], row["value"]), row["value"]) for row in FROZEN]


@pytest.mark.parametrize(
    ("kind", "value"), [row for row in RECORDS if row[0] in CLASSES], ids=lambda v: str(v)[:20]
)
def test_a_frozen_record_is_read_and_written_unchanged(kind: str, value: Any) -> None:
    """Fields that were added since are written with their defaults."""
    assert encode(decode(CLASSES[kind], value, "a frozen record")) == ADDED.get(kind, {}) | value


def test_a_record_of_every_kind_is_frozen() -> None:
    assert {kind for kind, _ in RECORDS} == CLASSES.keys() | PLAIN


class WatchedMetadata(MemoryMetadata):
    """Remembers all that was ever written, as (collection or log, key, value)."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[str, str, Any]] = []

    def put(self, collection, key, value, *, expected, guards=()):
        self.written.append((collection, key, value))
        return super().put(collection, key, value, expected=expected, guards=guards)

    def append(self, log, value, *, guards=()):
        # Every event has a digest, which is no part of the event itself.
        if log.startswith("journal/"):
            assert re.fullmatch(r"[0-9a-f]{32}", value["sum"])
        content = {key: inner for key, inner in value.items() if key != "sum"}
        self.written.append((log, "", content))
        return super().append(log, value, guards=guards)


class WatchedBlobs(MemoryBlobs):
    """Remembers every key that was ever written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: set[str] = set()

    def put(self, key, data):
        self.written.add(key)
        return super().put(key, data)


async def use_every_record(engine: AdapterLearningEngine, registry: Registry, folder: Path) -> None:
    """Make the registry write a record of every kind; back up the store while it is full."""
    rows = [TrainingExample(f"where is parcel {i}", "delivery") for i in range(20)]
    for name in ("tickets", "moods"):
        (await engine.create_adapter(name)).unwrap()
        (await engine.train_adapter(name, rows)).unwrap()
    for signal in (
        FeedbackSignal.user_correction("billing"),
        FeedbackSignal.success(),
        FeedbackSignal.failure(),
        FeedbackSignal.preference(0.75),
        FeedbackSignal.preference_pair("billing", "delivery"),
        FeedbackSignal.critique("too short"),
    ):
        prompt = f"what about {signal.kind.value}"
        (await engine.learn_from_feedback(prompt, "what", signal, "tickets", user="ann")).unwrap()
    (await engine.pin_answers("tickets", [TrainingExample("hello", "hi")])).unwrap()
    (await engine.unpin_answers("tickets", ["hello"])).unwrap()
    average = MergeStrategy.AVERAGE
    (await engine.merge_adapters(["tickets", "moods"], average, name="both", anyway=True)).unwrap()
    (await engine.rollback_adapter("tickets@2", replay=True)).unwrap()
    (await engine.find_adapters("where is my parcel")).unwrap()
    (await engine.backup_store(folder / "store.zip")).unwrap()
    (await engine.forget_user("ann")).unwrap()
    (await engine.delete_adapter("both")).unwrap()
    registry.stores[1].put(f"adapters/{'0' * 64}/adapter_config.json", b"{}")
    (await engine.collect_garbage()).unwrap()
    job = next(row["value"] for row in FROZEN if row["in"] == "jobs")
    opened = registry.jobs.add(decode(Job, {**job, "checkpoint": None}, "a job"))
    registry.jobs.save_checkpoint(opened.id, b"state", 1, 2)


@pytest.fixture
async def used(tmp_path: Path) -> tuple[WatchedMetadata, WatchedBlobs]:
    metadata, blobs = WatchedMetadata(), WatchedBlobs()
    registry = Registry(metadata, blobs)
    async with AdapterLearningEngine(FakeBackend(), registry) as engine:
        await use_every_record(engine, registry, tmp_path)
    return metadata, blobs


def paths(value: Any, prefix: str = "") -> Iterator[str]:
    """The keys of a JSON value at every depth, like "verdict.checks[].name"."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{prefix}.{key}"
            yield from paths(inner, f"{prefix}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from paths(inner, f"{prefix}[]")


def paths_by_kind(records: list[tuple[str, Any]]) -> dict[str, set[str]]:
    collected: dict[str, set[str]] = {}
    for kind, value in records:
        collected.setdefault(kind, set()).update(paths(value))
    return collected


async def test_what_an_engine_writes_has_frozen_places_and_keys(used, tmp_path: Path) -> None:
    metadata, blobs = used
    frozen = paths_by_kind(RECORDS)
    written = paths_by_kind([(kind_of(place, value), value) for place, _, value in metadata.written])
    assert written.keys() == frozen.keys()
    for kind, keys in written.items():
        assert keys <= frozen[kind], kind
    for kind in PLAIN:
        assert written[kind] == frozen[kind]
    for place, key, _ in metadata.written:
        form = KEYS[place] if key else r"NAME"
        assert re.fullmatch(form.replace("NAME", "(tickets|moods|both)"), key or place.split("/")[1])
    assert {re.sub(r"[0-9a-f]{64}", "DIGEST", key) for key in blobs.written} == {
        "adapters/DIGEST/adapter_config.json",
        "adapters/DIGEST/adapter_model.safetensors",
        "checkpoints/DIGEST",
    }


async def test_words_and_names_that_are_stored_and_compared_are_frozen(used) -> None:
    """A cause says how to make a version again; a sketch is drawn anew unless `of` is what it was."""
    written = used[0].written
    causes = {re.sub(r"@\d+", "@N", v["cause"]) for place, _, v in written if place == "versions"}
    assert causes == {"created", "trained", "feedback", "merged tickets@N, moods@N (average)"}
    keys = {v["key"] for place, _, v in written if place == "journal/tickets" and "key" in v}
    assert all(re.fullmatch(r"said:[0-9a-f]{64}", key) for key in keys)
    assert len(keys) == 6
    sketch = next(value for place, key, value in written if (place, key) == ("sketches", "moods"))
    assert sketch["of"] == "2 base-fake-fake 0fdf556fa9e1 3"


async def test_a_backup_has_its_frozen_layout(used, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "store.zip") as zipped:
        names = {re.sub(r"[0-9a-f]{64}", "DIGEST", name) for name in zipped.namelist()}
        manifest = json.loads(zipped.read("ouroboros.json"))
        rows, logs = (
            [json.loads(line) for line in zipped.read(name).decode().splitlines()]
            for name in ("records.jsonl", "logs.jsonl")
        )
    assert names == {
        "ouroboros.json",
        "records.jsonl",
        "logs.jsonl",
        "blobs/adapters/DIGEST/adapter_config.json",
        "blobs/adapters/DIGEST/adapter_model.safetensors",
    }
    assert manifest.keys() == {"blobs", "records", "logs", "records_digest", "logs_digest", "format"}
    assert {collection for collection, _, _ in rows} == {
        "adapters",
        "numbers",
        "scores",
        "sketches",
        "versions",
    }
    assert {name for name, _, _ in logs} == {"journal/tickets", "journal/moods", "moves/tickets"}
    first_event = next(entries for name, _, entries in logs if name == "journal/tickets")[0]
    assert first_event[0] == 1
    assert first_event[1]["kind"] == "examples"
