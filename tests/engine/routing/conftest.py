import pytest

from ouroboros.testing.backend import FakeBackend


class Counting(FakeBackend):
    """Counts the texts it embeds."""

    embedded = 0

    async def embed(self, texts):
        self.embedded += len(texts)
        return await super().embed(texts)


@pytest.fixture
def counting() -> Counting:
    return Counting()
