"""The memory store passes the suite for one process."""

import pytest

from ouroboros.stores.blobs.memory import MemoryBlobs
from ouroboros.testing.blobs import BlobStoreSuite


class TestMemoryBlobs(BlobStoreSuite):
    @pytest.fixture
    def store(self) -> MemoryBlobs:
        return MemoryBlobs()
