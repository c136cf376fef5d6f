"""Other collections and unreachable servers are refused with a clear message and left unchanged."""

import importlib.util
from contextlib import closing

import pytest

from ouroboros.domain.errors import InvalidInput, MissingExtra, StoreError
from ouroboros.stores import faults
from ouroboros.stores.open import open_metadata
from ouroboros.stores.qdrant import collections
from ouroboros.stores.qdrant import server as server_module
from ouroboros.stores.qdrant.points import METADATA
from ouroboros.stores.qdrant.server import QdrantServer
from ouroboros.testing import servers


@pytest.fixture
def url(collection: str) -> str:
    return collection


def test_a_collection_of_another_dimension_is_refused_and_unchanged(url: str) -> None:
    from qdrant_client import models

    with closing(QdrantServer(url)) as server:
        vectors = models.VectorParams(size=384, distance=models.Distance.COSINE)
        server.request(lambda q: q.create_collection(server.name, vectors))
        with pytest.raises(StoreError, match="are of 384 numbers by Cosine") as caught:
            open_metadata(url)
        assert "another" in caught.value.hint
        assert server.request(lambda q: q.get_collection(server.name)).payload_schema == {}


def test_a_collection_of_another_program_is_refused(url: str) -> None:
    with closing(QdrantServer(url)) as server:
        vectors = METADATA.vectors
        server.request(lambda q: q.create_collection(server.name, vectors, metadata={"owner": "me"}))
        with pytest.raises(StoreError, match="not created by ouroboros"):
            open_metadata(url)


def test_a_store_with_a_newer_schema_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(collections, "SCHEMA", 7)
        open_metadata(url).close()
    with pytest.raises(StoreError, match="schema 7; this program knows up to 1") as caught:
        open_metadata(url)
    assert "newer" in caught.value.hint


def test_a_server_without_conditional_writes_is_refused(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "OLDEST_VERSION", (999, 1))
    with pytest.raises(StoreError, match="overwrites") as caught:
        open_metadata(url)
    assert "999.1 or newer" in caught.value.hint


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_the_api_key_comes_from_the_environment_and_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with servers.run_qdrant(api_key="hunter2") as guarded:
        url = f"qdrant://127.0.0.1:{guarded.port}"
        for wrong in ("", "hunter3"):
            monkeypatch.setenv("QDRANT_API_KEY", wrong)
            with pytest.raises(StoreError, match="401") as caught:
                open_metadata(url)
            assert "QDRANT_API_KEY" in caught.value.hint
            assert "hunter" not in f"{caught.value} {caught.value.hint}"
        monkeypatch.setenv("QDRANT_API_KEY", "hunter2")
        with closing(open_metadata(url)) as store:
            assert store.append("log", {}) == 1


@pytest.mark.parametrize(
    ("where", "words", "hint"),
    [
        (f"qdrant://127.0.0.1:{servers.free_port()}", "refused", "Start the server"),
        ("qdrant://host.invalid", "ame", "host"),
    ],
)
def test_an_unreachable_server_raises_store_error(
    where: str, words: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "_PAUSES", (0.0,))
    with pytest.raises(StoreError, match=words) as caught:
        open_metadata(where)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "wrong",
    [
        "qdrant://",
        "qdrant://host:port",
        "qdrant://me:hunter2@host",
        "qdrant+https://host/?api_key=hunter2",
        "qdrant://host/a/b",
        "qdrant://host/..",
        "qdrant://host/a%2Fb",
    ],
)
def test_a_malformed_url_is_refused_and_not_repeated_in_the_error(wrong: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be read") as caught:
        open_metadata(wrong)
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


def test_without_the_library_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="qdrant-client") as caught:
        open_metadata("qdrant://localhost")
    assert "pip install 'ouroboros-learning[qdrant]'" in caught.value.hint
