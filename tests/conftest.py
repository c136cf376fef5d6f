"""For every test: tensor shapes are checked as annotated, one thread, no network, own caches."""

import atexit
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from ouroboros.testing.servers import ServerProcess

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["XDG_CACHE_HOME"] = _caches = tempfile.mkdtemp(prefix="ouroboros-caches-")
atexit.register(shutil.rmtree, _caches, ignore_errors=True)

_numbers = itertools.count(1)

install_import_hook(("ouroboros.lora", "ouroboros.backend"), "beartype.beartype")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random Llama with a tokenizer and a chat template; not to be written to."""
    from ouroboros.testing.tiny import tiny_model

    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of the real model: fetched and converted once, into a place that outlives the tests."""
    from ouroboros.domain.errors import ModelError
    from ouroboros.models import resolve_model

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(Path(__file__).parents[1] / ".setup" / "cache"))
        try:
            return Path(resolve_model("smollm2"))
        except ModelError as error:
            pytest.skip(f"the model smollm2 is not to be had: {error}")


@pytest.fixture(scope="session")
def qdrant() -> Iterator["ServerProcess"]:
    """An emulator of a Qdrant server."""
    from ouroboros.testing import servers

    with servers.run_qdrant() as server:
        yield server


@pytest.fixture
def collection(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty collection: on the server of `QDRANT_URL`, else on the emulator."""
    from ouroboros.stores.qdrant.server import QdrantServer

    name = f"ouroboros-test-{os.getpid()}-{next(_numbers)}"
    where = os.environ.get("QDRANT_URL", "").rstrip("/")
    where = where or f"qdrant://127.0.0.1:{request.getfixturevalue('qdrant').port}"
    yield f"{where}/{name}"
    with closing(QdrantServer(f"{where}/{name}")) as server:
        collections = server.request(lambda q: q.get_collections()).collections
        for collection in (c.name for c in collections if c.name.startswith(name)):
            server.request(lambda q, c=collection: q.delete_collection(c))
