"""The whole engine on Qdrant and files: an adapter's life, and moving a store there and back."""

from contextlib import closing
from pathlib import Path

import pytest

from ouroboros.domain.data import TrainingExample
from ouroboros.domain.events import FeedbackGiven
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.names import AdapterId
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.fsck import check
from ouroboros.registry.migrate import Stores, migrate
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata
from ouroboros.testing.backend import FakeBackend

TICKETS = AdapterId("tickets")
ROWS = [TrainingExample(f"where is parcel {n}", "parcel") for n in range(4)]


def stores(metadata: str, blobs: Path) -> Stores:
    return Stores(open_metadata(metadata), open_blobs(f"file://{blobs}"))


@pytest.fixture
async def told(collection: str, tmp_path: Path) -> Registry:
    """A registry on Qdrant, in which an adapter was created, trained, corrected, rolled back."""
    opened = stores(collection, tmp_path / "blobs")
    async with AdapterLearningEngine(FakeBackend(), Registry(*_both(opened))) as engine:
        (await engine.create_adapter("tickets")).unwrap()
        (await engine.create_adapter("gone")).unwrap()
        trained = (await engine.train_adapter("tickets", ROWS)).unwrap()
        correct = FeedbackSignal.user_correction("parcel")
        given = await engine.learn_from_feedback("where is it", "away", correct, TICKETS, user="ann")
        assert given.unwrap().event == 2
        (await engine.rollback_adapter("tickets@1")).unwrap()
        (await engine.rollback_adapter(trained.ref)).unwrap()
        (await engine.delete_adapter("gone")).unwrap()
    return Registry(*_both(stores(collection, tmp_path / "blobs")))


def _both(opened: Stores) -> tuple:
    return opened.metadata, opened.blobs


async def test_the_next_program_reads_an_adapters_whole_history(told: Registry) -> None:
    with closing(told):
        assert [(a.id, a.head) for a in told.adapters()] == [(TICKETS, 2)]
        assert [m.after for m in told.head_moves(TICKETS)] == [1, 2]
        assert [v.number for v in told.versions(TICKETS)] == [1, 2, 3]
        events = [j.event for j in told.journal.all(TICKETS)]
        assert [e.user for e in events if isinstance(e, FeedbackGiven)] == ["ann"]
        assert check(told).damages == ()


async def test_a_store_moves_from_qdrant_into_files_and_back(
    told: Registry, collection: str, tmp_path: Path
) -> None:
    source = Stores(*told.stores)
    plain = stores(f"sqlite:///{tmp_path}/plain.db", tmp_path / "plain")
    back = stores(f"{collection}-back", tmp_path / "back")
    copied = migrate(source, plain)
    assert migrate(plain, back) == copied
    assert migrate(plain, back) == copied  # once more changes nothing
    assert copied.records
    there = Registry(*_both(back))
    assert there.adapters() == told.adapters()
    assert there.versions(TICKETS) == told.versions(TICKETS)
    assert list(there.journal.all(TICKETS)) == list(told.journal.all(TICKETS))
    assert there.journal.examples(TICKETS, ROWS) == told.journal.end(TICKETS) + 1
    for opened in (source, plain, back):
        opened.close()
