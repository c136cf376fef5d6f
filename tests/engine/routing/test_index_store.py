"""Portraits in a store that searches by itself: found as by brute force, and gone when they must be."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ouroboros.domain.data import TrainingExample
from ouroboros.engine import AdapterLearningEngine
from ouroboros.engine.routing.index_store import StoredCentroidIndex
from ouroboros.registry.registry import Registry
from ouroboros.stores.metadata.memory import MemoryMetadata
from ouroboros.stores.open import open_blobs, open_metadata, open_vectors
from ouroboros.stores.vectors.base import VectorStore
from ouroboros.testing.backend import FakeBackend

TASKS = {
    "tickets": ("where is my parcel", "my parcel is late", "lost parcel"),
    "player": ("play some jazz music", "play a song", "stop the music"),
}


@pytest.fixture
def opened(collection: str, tmp_path: Path) -> Callable[..., AdapterLearningEngine]:
    def engine(backend: FakeBackend | None = None) -> AdapterLearningEngine:
        metadata, blobs = open_metadata(collection), open_blobs(f"file://{tmp_path}/blobs")
        registry = Registry(metadata, blobs, vectors=open_vectors(collection))
        return AdapterLearningEngine(backend or FakeBackend(), registry)

    return engine


@pytest.fixture
async def engine(opened):
    async with opened() as engine:
        await train_adapters(engine)
        yield engine


async def train_adapters(engine: AdapterLearningEngine) -> None:
    for name, texts in TASKS.items():
        (await engine.create_adapter(name)).unwrap()
        examples = [TrainingExample(text, name) for text in texts]
        (await engine.train_adapter(name, examples)).unwrap()


async def find_names(engine, text, k=5):
    return [
        (f.adapter.name, f.similarity, f.needed) for f in (await engine.find_adapters(text, k)).unwrap()
    ]


def portraits(engine: AdapterLearningEngine) -> list[str]:
    store, gallery = engine._registry.blocking.vectors, engine._router._index
    assert store is not None
    assert isinstance(gallery, StoredCentroidIndex)
    return sorted(store.values(gallery._space))


@pytest.mark.parametrize("text", ["is my parcel lost", "play music", "integrate x squared"])
async def test_the_answers_are_those_of_brute_force(engine, text, tmp_path):
    registry = Registry(MemoryMetadata(), open_blobs(f"file://{tmp_path}/others"))
    async with AdapterLearningEngine(FakeBackend(), registry) as brute:
        await train_adapters(brute)
        mine, theirs = await find_names(engine, text), await find_names(brute, text)
    assert [s for _, s, _ in mine] == pytest.approx([s for _, s, _ in theirs], abs=1e-5)
    assert {name: needed for name, _, needed in mine} == {name: needed for name, _, needed in theirs}


async def test_another_program_draws_only_what_has_a_new_head(opened, engine, counting):
    await find_names(engine, "parcel")
    async with opened(counting) as other:
        assert (await find_names(other, "my parcel", k=1))[0][0] == "tickets"
        assert counting.embedded == 1
        (await engine.train_adapter("player", [TrainingExample("louder now", "volume")])).unwrap()
        other._router._refresh_at = 0.0
        assert (await find_names(other, "louder now", k=1))[0][0] == "player"
        assert counting.embedded > 4


async def test_what_is_deleted_or_forgotten_leaves_no_portrait(engine):
    await find_names(engine, "parcel")
    assert portraits(engine) == ["player", "tickets"]
    (await engine.forget_events("tickets", 1)).unwrap()
    assert portraits(engine) == ["player"]
    (await engine.delete_adapter("player")).unwrap()
    assert portraits(engine) == []
    assert [name for name, *_ in await find_names(engine, "parcel")] == ["tickets"]


async def test_a_portrait_of_a_former_head_is_not_taken_for_todays(engine):
    await find_names(engine, "parcel")
    gallery = engine._router._index
    store: VectorStore = engine._registry.blocking.vectors
    value = store.values(gallery._space)["tickets"]
    store.put(gallery._space, "tickets", {**value, "of": "1 of another"}, [[1.0] * 256])
    assert "tickets" not in [name for name, *_ in await find_names(engine, "parcel")]
    engine._router._refresh_at = 0.0
    assert "tickets" in [name for name, *_ in await find_names(engine, "parcel")]
