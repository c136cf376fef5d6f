"""The whole engine on Qdrant and files: an adapter's life, and moving a store there and back."""

from contextlib import closing
from pathlib import Path

import pytest

from ouroboros.domain.data import TrainingExample
from ouroboros.domain.events import FeedbackGiven
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.names import AdapterId
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.fsck import check_store
from ouroboros.registry.migrate import Store, migrate_store
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata
from ouroboros.testing.backend import FakeBackend

TICKETS = AdapterId("tickets")
ROWS = [TrainingExample(f"where is parcel {n}", "parcel") for n in range(4)]


def open_stores(metadata: str, blobs: Path) -> Store:
    return Store(open_metadata(metadata), open_blobs(f"file://{blobs}"))


@pytest.fixture
async def filled_registry(collection: str, tmp_path: Path) -> Registry:
    """A registry on Qdrant, in which an adapter was created, trained, corrected, rolled back."""
    opened = open_stores(collection, tmp_path / "blobs")
    async with AdapterLearningEngine(FakeBackend(), Registry(*_metadata_and_blobs(opened))) as engine:
        (await engine.create_adapter("tickets")).unwrap()
        (await engine.create_adapter("gone")).unwrap()
        trained = (await engine.train_adapter("tickets", ROWS)).unwrap()
        correct = FeedbackSignal.user_correction("parcel")
        outcome = await engine.learn_from_feedback("where is it", "away", correct, TICKETS, user="ann")
        assert outcome.unwrap().event == 2
        (await engine.rollback_adapter("tickets@1")).unwrap()
        (await engine.rollback_adapter(trained.ref)).unwrap()
        (await engine.delete_adapter("gone")).unwrap()
    return Registry(*_metadata_and_blobs(open_stores(collection, tmp_path / "blobs")))


def _metadata_and_blobs(opened: Store) -> tuple:
    return opened.metadata, opened.blobs


async def test_the_next_program_reads_an_adapters_whole_history(filled_registry: Registry) -> None:
    with closing(filled_registry):
        assert [(a.id, a.head) for a in filled_registry.list_adapters()] == [(TICKETS, 2)]
        assert [m.after for m in filled_registry.list_head_moves(TICKETS)] == [1, 2]
        assert [v.number for v in filled_registry.list_versions(TICKETS)] == [1, 2, 3]
        events = [j.event for j in filled_registry.journal.read_all(TICKETS)]
        assert [e.user for e in events if isinstance(e, FeedbackGiven)] == ["ann"]
        assert check_store(filled_registry).damages == ()


async def test_a_store_moves_from_qdrant_into_files_and_back(
    filled_registry: Registry, collection: str, tmp_path: Path
) -> None:
    source = Store(*filled_registry.stores)
    plain = open_stores(f"sqlite:///{tmp_path}/plain.db", tmp_path / "plain")
    back = open_stores(f"{collection}-back", tmp_path / "back")
    copied = migrate_store(source, plain)
    assert migrate_store(plain, back) == copied
    assert migrate_store(plain, back) == copied  # once more changes nothing
    assert copied.records
    restored = Registry(*_metadata_and_blobs(back))
    assert restored.list_adapters() == filled_registry.list_adapters()
    assert restored.list_versions(TICKETS) == filled_registry.list_versions(TICKETS)
    assert list(restored.journal.read_all(TICKETS)) == list(filled_registry.journal.read_all(TICKETS))
    assert (
        restored.journal.append_examples(TICKETS, ROWS) == filled_registry.journal.last_seq(TICKETS) + 1
    )
    for opened in (source, plain, back):
        opened.close()
