"""What an adapter was taught, read back event by event."""

import pytest

from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import NotFound
from ouroboros.domain.events import ExamplesGiven, Pinned
from ouroboros.domain.names import AdapterId
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata
from ouroboros.testing.backend import FakeBackend


async def test_the_journal_is_read_in_pages_and_its_end_is_known():
    registry = Registry(open_metadata("memory:"), open_blobs("memory:"))
    async with AdapterLearningEngine(FakeBackend(), registry) as engine:
        (await engine.create_adapter("tickets")).unwrap()
        assert (await engine.read_journal("tickets")).unwrap() == []
        (await engine.train_adapter("tickets", [TrainingExample("a", "b")])).unwrap()
        (await engine.pin_answers("tickets", [TrainingExample("c", "d")])).unwrap()
        first, second = (await engine.read_journal("tickets")).unwrap()
        assert isinstance(first.event, ExamplesGiven)
        assert isinstance(second.event, Pinned)
        assert (await engine.read_journal("tickets", limit=1)).unwrap() == [first]
        assert (await engine.read_journal("tickets", after=first.seq)).unwrap() == [second]
        ends = (await engine.list_last_events()).unwrap()
        assert ends == {AdapterId("tickets"): second.seq}
        with pytest.raises(NotFound):
            (await engine.read_journal("nobody")).unwrap()


async def test_a_new_adapter_does_not_show_what_its_namesake_was_taught():
    registry = Registry(open_metadata("memory:"), open_blobs("memory:"))
    async with AdapterLearningEngine(FakeBackend(), registry) as engine:
        (await engine.create_adapter("tickets")).unwrap()
        (await engine.train_adapter("tickets", [TrainingExample("a", "b")])).unwrap()
        (await engine.delete_adapter("tickets")).unwrap()
        (await engine.create_adapter("tickets")).unwrap()
        assert (await engine.read_journal("tickets")).unwrap() == []
