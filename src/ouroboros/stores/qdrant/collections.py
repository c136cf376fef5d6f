"""Open a collection on a Qdrant server: create it, or check that this program created it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from ouroboros.domain.errors import StoreError
from ouroboros.stores.qdrant.server import QdrantServer

SCHEMA = 1

_MARK_KEY = "ouroboros"
"""The metadata key under which a collection records its schema version."""

Index: TypeAlias = models.KeywordIndexParams | models.PayloadSchemaType

KEYWORD = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, prefix=True)
INTEGER = models.PayloadSchemaType.INTEGER


@dataclass(frozen=True)
class CollectionSpec:
    """The properties of a collection: its purpose, its vectors, the indexes of its payloads."""

    purpose: str
    vectors: models.VectorParams
    indexes: Mapping[str, Index]


def open_collection(server: QdrantServer, name: str, spec: CollectionSpec) -> None:
    """Create the collection and its indexes if they are missing.

    Raises `StoreError`, and changes nothing, if another program or a newer version created it.
    """
    if not server.request(lambda q: q.collection_exists(name)):
        server.request(lambda q: _create_collection(q, name, spec))
    info = server.request(lambda q: q.get_collection(name))
    mark = (info.config.metadata or {}).get(_MARK_KEY)
    schema = mark.get("schema") if isinstance(mark, dict) else None
    vectors = info.config.params.vectors
    if not isinstance(schema, int) or _describe_vectors(vectors) != _describe_vectors(spec.vectors):
        raise StoreError(
            f"The collection {name} at {server.location} was not created by ouroboros for"
            f" {spec.purpose}: its vectors are {_describe_vectors(vectors)}.",
            hint="Name another collection, which is created at the first use: qdrant://HOST:PORT/NAME",
        )
    if schema > SCHEMA:
        raise StoreError(
            f"The store at {server.location} has schema {schema}; this program knows up to {SCHEMA}.",
            hint="Use the version of ouroboros that wrote it, or a newer one.",
        )
    for field in spec.indexes.keys() - set(info.payload_schema):
        index = spec.indexes[field]
        server.write(lambda q, f=field, i=index: q.create_payload_index(name, f, i, wait=True))


def _create_collection(client: QdrantClient, name: str, spec: CollectionSpec) -> None:
    """Create the collection. If another program created it at the same time, use that one."""
    mark = {_MARK_KEY: {"schema": SCHEMA}}
    try:
        client.create_collection(name, vectors_config=spec.vectors, metadata=mark)
    except UnexpectedResponse as error:
        if error.status_code not in (400, 409) or not client.collection_exists(name):
            raise


def _describe_vectors(vectors: Any) -> str:
    """The size and distance of a collection's vectors, for messages and comparison."""
    size, distance = getattr(vectors, "size", None), getattr(vectors, "distance", None)
    prefix = "several of " if getattr(vectors, "multivector_config", None) else "of "
    return f"{prefix}{size} numbers by {distance}" if size else "others"
