"""Vectors in Qdrant: each key is a point with a multivector, and the server searches exactly.

The graph index is neither built nor used: over multivectors it misses many nearest neighbours, and at
this size an exact search is as fast (docs/decisions/0013-qdrant.md).
"""

import hashlib
import json
import re
import uuid
from collections.abc import Sequence

from qdrant_client import models

from ouroboros.stores.metadata.base import Json, dump_json
from ouroboros.stores.qdrant.collections import KEYWORD, CollectionSpec, open_collection
from ouroboros.stores.qdrant.server import QdrantServer
from ouroboros.stores.vectors.base import Hit

_PAGE_SIZE = 1000
_EXACT_SEARCH = models.SearchParams(exact=True)
_NO_GRAPH = models.HnswConfigDiff(m=0)
_ID_NAMESPACE = uuid.UUID("d5b0f6e2-53f0-4b41-8a0a-6f75726f626f")


class QdrantVectors:
    """One collection per space, beside the metadata collection: `NAME-portraits-` and a digest."""

    def __init__(self, server: QdrantServer) -> None:
        self._server = server
        self._opened: set[str] = set()

    def put(self, space: str, key: str, value: Json, vectors: Sequence[Sequence[float]]) -> None:
        name = self._collection_name(space)
        if name not in self._opened:
            open_collection(self._server, name, _centroid_collection(len(vectors[0])))
            self._opened.add(name)
        rows = [[float(number) for number in row] for row in vectors]
        point = models.PointStruct(
            id=_point_id(key), vector=rows, payload={"key": key, "value": dump_json(value)}
        )
        self._server.write(lambda q: q.upsert(name, [point], wait=True))

    def values(self, space: str) -> dict[str, Json]:
        name = self._collection_name(space)
        values: dict[str, Json] = {}
        offset = None
        while self._exists(name):
            points, offset = self._server.request(
                lambda q, o=offset: q.scroll(name, limit=_PAGE_SIZE, offset=o, with_payload=True)
            )
            values |= {p["key"]: json.loads(p["value"]) for p in (x.payload or {} for x in points)}
            if offset is None:
                break
        return values

    def search(self, space: str, vector: Sequence[float], k: int) -> list[Hit]:
        name = self._collection_name(space)
        if not self._exists(name):
            return []
        query = [[float(number) for number in vector]]
        answer = self._server.request(
            lambda q: q.query_points(name, query=query, limit=k, search_params=_EXACT_SEARCH)
        )
        hits = ((point.payload or {}, point.score) for point in answer.points)
        return [Hit(p["key"], score, json.loads(p["value"])) for p, score in hits]

    def drop(self, key: str) -> None:
        name_pattern = re.compile(re.escape(self._server.name) + "-portraits-[0-9a-f]{16}")
        collections = self._server.request(lambda q: q.get_collections()).collections
        selector = models.PointIdsList(points=[_point_id(key)])
        for name in (c.name for c in collections if name_pattern.fullmatch(c.name)):
            self._server.write(lambda q, n=name: q.delete(n, selector, wait=True))

    def close(self) -> None:
        self._server.close()

    def _collection_name(self, space: str) -> str:
        return f"{self._server.name}-portraits-{hashlib.sha256(space.encode()).hexdigest()[:16]}"

    def _exists(self, name: str) -> bool:
        return name in self._opened or self._server.request(lambda q: q.collection_exists(name))


def _centroid_collection(size: int) -> CollectionSpec:
    multivector = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    vectors = models.VectorParams(
        size=size,
        distance=models.Distance.COSINE,
        multivector_config=multivector,
        hnsw_config=_NO_GRAPH,
    )
    return CollectionSpec("portraits", vectors, {"key": KEYWORD})


def _point_id(key: str) -> str:
    return str(uuid.uuid5(_ID_NAMESPACE, key))
