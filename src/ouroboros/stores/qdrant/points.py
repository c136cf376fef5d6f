"""Records and entries as points of one collection on a Qdrant server."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from qdrant_client import models
from qdrant_client.models import Condition, Filter

from ouroboros.stores.qdrant.collections import INTEGER, KEYWORD, CollectionSpec, open_collection
from ouroboros.stores.qdrant.server import QdrantServer

FREED_AT = "freed"
"""Payload field with the time at which a point was emptied (Unix seconds); absent while it has a
value."""

METADATA = CollectionSpec(
    "metadata",
    models.VectorParams(size=1, distance=models.Distance.DOT),
    {"group": KEYWORD, "key": KEYWORD, "seq": INTEGER, FREED_AT: INTEGER},
)
"""Every point of a Qdrant collection needs a vector. These have one component, which is not used."""

_VALUES_PER_PAGE, _IDS_PER_PAGE = 100, 5000
"""Points per request, with their values, which may be large, and without."""

_MAX_GROUPS = 1_000_000

Payload: TypeAlias = Mapping[str, Any]


class Points:
    """Points with a payload in the collection that `server.name` names.

    Writes are conditional and idempotent. The server applies them one after another, and each is in its
    log on disk before it is acknowledged (`wait`).
    """

    def __init__(self, server: QdrantServer) -> None:
        self._server = server
        self._name = server.name
        open_collection(server, server.name, METADATA)

    def get(self, ids: Sequence[str], fields: Sequence[str] | bool = True) -> dict[str, Payload]:
        """Return the payloads of the points that exist, by id."""
        payloads = {}
        for start in range(0, len(ids), _VALUES_PER_PAGE):
            page = list(ids[start : start + _VALUES_PER_PAGE])
            points = self._server.request(
                lambda q, p=page: q.retrieve(self._name, p, with_payload=_payload_selector(fields))
            )
            payloads |= {str(point.id): point.payload or {} for point in points}
        return payloads

    def insert(self, id: str, payload: Payload) -> None:
        """Insert a point unless the id exists. Qdrant does not report which of the two happened."""
        self._upsert(id, payload, None)

    def replace(self, id: str, payload: Payload, nonce: str) -> None:
        """Replace a point's payload if its nonce is `nonce`. Qdrant does not report whether it was."""
        self._upsert(id, payload, models.Filter(must=[_equals("nonce", nonce)]))

    def clear_values(self, group: str, first: int, last: int, now: int) -> None:
        """Remove the values of a log's points. They are marked as freed first, so readers skip them."""
        condition = _all_of(_equals("group", group), _in_range("seq", first, last))
        selector = models.FilterSelector(filter=condition)
        self._server.write(lambda q: q.set_payload(self._name, {FREED_AT: now}, selector, wait=True))
        self._server.write(lambda q: q.delete_payload(self._name, ["value"], selector, wait=True))

    def delete_freed(self, group: str, cutoff: int, below: int | None = None) -> None:
        """Delete a group's points that were emptied before `cutoff`; of a log, only those with a
        sequence number under `below`."""
        conditions: list[Condition] = [_equals("group", group), _in_range(FREED_AT, 0, cutoff - 1)]
        conditions += [_in_range("seq", 0, below - 1)] if below is not None else []
        selector = models.FilterSelector(filter=_all_of(*conditions))
        self._server.write(lambda q: q.delete(self._name, selector, wait=True))

    def list_keys(self, group: str, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield the key and id of every point of a group that has a value, in no particular order."""
        conditions: list[Condition] = [_equals("group", group), _has_value()]
        if prefix:
            match = models.MatchPrefix(prefix=prefix)
            conditions.append(models.FieldCondition(key="key", match=match))
        offset = None
        while True:
            points, offset = self._server.request(
                lambda q, o=offset: q.scroll(
                    self._name, _all_of(*conditions), limit=_IDS_PER_PAGE, offset=o, with_payload=["key"]
                )
            )
            yield from (((point.payload or {})["key"], str(point.id)) for point in points)
            if offset is None:
                return

    def read_log(self, group: str, after: int, limit: int) -> list[Payload]:
        """Return up to `limit` payloads of a log's points that have a value, after a sequence number."""
        order = models.OrderBy(key="seq", direction=models.Direction.ASC)
        payloads: list[Payload] = []
        while len(payloads) < limit:
            condition = _all_of(_equals("group", group), _in_range("seq", after + 1, None), _has_value())
            size = min(_VALUES_PER_PAGE, limit - len(payloads))
            points, _ = self._server.request(
                lambda q, c=condition, s=size: q.scroll(self._name, c, limit=s, order_by=order)
            )
            payloads += [point.payload or {} for point in points]
            if len(points) < size:
                break
            after = payloads[-1]["seq"]
        return payloads

    def last_seq(self, group: str) -> int:
        """Return the highest sequence number in a log, tombstones included; 0 if it has no point."""
        order = models.OrderBy(key="seq", direction=models.Direction.DESC)
        condition = _all_of(_equals("group", group))
        points, _ = self._server.request(
            lambda q: q.scroll(self._name, condition, limit=1, order_by=order, with_payload=["seq"])
        )
        return (points[0].payload or {})["seq"] if points else 0

    def list_groups(self, prefix: str, with_values: bool) -> list[str]:
        """Return the names of the groups with a prefix; with `with_values`, only those that hold a
        value.
        """
        has_prefix = models.FieldCondition(key="group", match=models.MatchPrefix(prefix=prefix))
        condition = _all_of(has_prefix, *([_has_value()] if with_values else []))
        answer = self._server.request(
            lambda q: q.facet(self._name, "group", facet_filter=condition, limit=_MAX_GROUPS, exact=True)
        )
        return sorted(str(hit.value) for hit in answer.hits if hit.count)

    def _upsert(self, id: str, payload: Payload, condition: Filter | None) -> None:
        """Insert only, or with a condition update only: an unmet condition alone would insert."""
        mode = models.UpdateMode.UPDATE_ONLY if condition else models.UpdateMode.INSERT_ONLY
        point = models.PointStruct(id=id, vector=[0.0], payload=dict(payload))
        self._server.write(
            lambda q: q.upsert(self._name, [point], wait=True, update_filter=condition, update_mode=mode)
        )


def _payload_selector(fields: Sequence[str] | bool) -> list[str] | bool:
    return fields if isinstance(fields, bool) else list(fields)


def _all_of(*conditions: Condition) -> Filter:
    return models.Filter(must=list(conditions))


def _equals(key: str, value: str) -> Condition:
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _in_range(key: str, first: int, last: int | None) -> Condition:
    return models.FieldCondition(key=key, range=models.Range(gte=first, lte=last))


def _has_value() -> Condition:
    return models.IsEmptyCondition(is_empty=models.PayloadField(key=FREED_AT))
