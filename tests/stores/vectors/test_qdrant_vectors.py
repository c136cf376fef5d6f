"""Qdrant searches several vectors per key as brute force does, in separate spaces."""

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
from qdrant_client import models

from ouroboros.domain.errors import StoreError
from ouroboros.stores.open import open_vectors
from ouroboros.stores.qdrant.server import QdrantServer
from ouroboros.stores.vectors.base import VectorStore
from ouroboros.stores.vectors.qdrant import QdrantVectors


@pytest.fixture
def vectors(collection: str) -> Iterator[VectorStore]:
    opened = open_vectors(collection)
    assert opened is not None
    yield opened
    opened.close()


def _normalise(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_search_returns_the_same_keys_as_brute_force(vectors: VectorStore) -> None:
    random = np.random.default_rng(0)
    vectors_by_key = {f"a{n}": _normalise(random.normal(size=(1 + n % 4, 8))) for n in range(20)}
    for key, rows in vectors_by_key.items():
        vectors.put("space", key, {"of": key}, rows.tolist())
    query = _normalise(random.normal(size=(1, 8)))[0]
    nearest = sorted(
        ((float((rows @ query).max()), key) for key, rows in vectors_by_key.items()), reverse=True
    )
    hits = vectors.search("space", query.tolist(), 5)
    assert [hit.key for hit in hits] == [key for _, key in nearest[:5]]
    assert [hit.similarity for hit in hits] == pytest.approx([s for s, _ in nearest[:5]], abs=1e-5)
    assert [hit.value for hit in hits] == [{"of": hit.key} for hit in hits]


def test_no_approximate_index_is_built(vectors: VectorStore, collection: str) -> None:
    vectors.put("space", "a", {}, [[1.0, 0.0]])
    with closing(QdrantServer(collection)) as server:
        collections = server.request(lambda q: q.get_collections()).collections
        (name,) = (c.name for c in collections if c.name.startswith(f"{server.name}-portraits-"))
        params = server.request(lambda q: q.get_collection(name)).config.params.vectors
    assert isinstance(params, models.VectorParams)
    assert params.hnsw_config is not None
    assert params.hnsw_config.m == 0


def test_the_last_write_of_a_key_wins(vectors: VectorStore) -> None:
    vectors.put("space", "a", {"n": 1}, [[1.0, 0.0]])
    vectors.put("space", "a", {"n": 2}, [[0.0, 1.0], [0.0, -1.0]])
    assert vectors.values("space") == {"a": {"n": 2}}
    assert [h.similarity for h in vectors.search("space", [0.0, 1.0], 3)] == pytest.approx([1.0])


def test_spaces_are_separate_and_drop_removes_a_key_from_all(
    vectors: VectorStore, collection: str
) -> None:
    vectors.put("one", "a", {}, [[1.0, 0.0]])
    vectors.put("two", "a", {}, [[1.0, 0.0, 0.0]])
    vectors.put("two", "b", {}, [[1.0, 0.0, 0.0]])
    assert (list(vectors.values("one")), sorted(vectors.values("two"))) == (["a"], ["a", "b"])
    assert (vectors.values("three"), vectors.search("three", [1.0], 1)) == ({}, [])
    with closing(QdrantVectors(QdrantServer(collection))) as another:
        another.drop("a")
    assert (vectors.values("one"), list(vectors.values("two"))) == ({}, ["b"])


def test_a_collection_of_another_dimension_is_refused(vectors: VectorStore, collection: str) -> None:
    vectors.put("space", "a", {}, [[1.0, 0.0]])
    with (
        closing(QdrantVectors(QdrantServer(collection))) as other,
        pytest.raises(StoreError, match="several of 2 numbers"),
    ):
        other.put("space", "b", {}, [[1.0, 0.0, 0.0]])
