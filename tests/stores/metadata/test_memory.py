"""The memory store passes the suite for one process."""

import pytest

from ouroboros.stores.metadata.memory import MemoryMetadata
from ouroboros.testing.metadata import MetadataStoreSuite


class TestMemoryMetadata(MetadataStoreSuite):
    @pytest.fixture
    def store(self) -> MemoryMetadata:
        return MemoryMetadata()
