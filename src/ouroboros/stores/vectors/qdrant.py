"""Vectors in Qdrant: each key a point with a multivector, searched by the server, exactly.

Its graph index is neither built nor asked: over multivectors it misses many of the nearest, and a
search without it is as quick where stores are of this size (docs/decisions/0013-qdrant.md).
"""

import hashlib
import json
import re
import uuid
from collections.abc import Sequence

from qdrant_client import models

from ouroboros.stores.metadata.base import Json, dump
from ouroboros.stores.qdrant.collections import KEYWORD, Collection, open_collection
from ouroboros.stores.qdrant.server import Server
from ouroboros.stores.vectors.base import Hit

_PAGE = 1000
_EXACTLY = models.SearchParams(exact=True)
_NO_GRAPH = models.HnswConfigDiff(m=0)
_NAMES = uuid.UUID("d5b0f6e2-53f0-4b41-8a0a-6f75726f626f")


class QdrantVectors:
    """One collection per space, beside that of the metadata: `NAME-portraits-` and a digest."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._known: set[str] = set()

    def put(self, space: str, key: str, value: Json, vectors: Sequence[Sequence[float]]) -> None:
        name = self._collection(space)
        if name not in self._known:
            open_collection(self._server, name, _portraits(len(vectors[0])))
            self._known.add(name)
        rows = [[float(number) for number in row] for row in vectors]
        point = models.PointStruct(id=_id(key), vector=rows, payload={"key": key, "value": dump(value)})
        self._server.write(lambda q: q.upsert(name, [point], wait=True))

    def values(self, space: str) -> dict[str, Json]:
        name = self._collection(space)
        found: dict[str, Json] = {}
        offset = None
        while self._is_there(name):
            points, offset = self._server.ask(
                lambda q, o=offset: q.scroll(name, limit=_PAGE, offset=o, with_payload=True)
            )
            found |= {p["key"]: json.loads(p["value"]) for p in (x.payload or {} for x in points)}
            if offset is None:
                break
        return found

    def search(self, space: str, vector: Sequence[float], k: int) -> list[Hit]:
        name = self._collection(space)
        if not self._is_there(name):
            return []
        question = [[float(number) for number in vector]]
        answer = self._server.ask(
            lambda q: q.query_points(name, query=question, limit=k, search_params=_EXACTLY)
        )
        found = ((point.payload or {}, point.score) for point in answer.points)
        return [Hit(p["key"], score, json.loads(p["value"])) for p, score in found]

    def drop(self, key: str) -> None:
        ours = re.compile(re.escape(self._server.name) + "-portraits-[0-9a-f]{16}")
        there = self._server.ask(lambda q: q.get_collections()).collections
        where = models.PointIdsList(points=[_id(key)])
        for name in (c.name for c in there if ours.fullmatch(c.name)):
            self._server.write(lambda q, n=name: q.delete(n, where, wait=True))

    def close(self) -> None:
        self._server.close()

    def _collection(self, space: str) -> str:
        return f"{self._server.name}-portraits-{hashlib.sha256(space.encode()).hexdigest()[:16]}"

    def _is_there(self, name: str) -> bool:
        return name in self._known or self._server.ask(lambda q: q.collection_exists(name))


def _portraits(size: int) -> Collection:
    several = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    vectors = models.VectorParams(
        size=size,
        distance=models.Distance.COSINE,
        multivector_config=several,
        hnsw_config=_NO_GRAPH,
    )
    return Collection("portraits", vectors, {"key": KEYWORD})


def _id(key: str) -> str:
    return str(uuid.uuid5(_NAMES, key))
