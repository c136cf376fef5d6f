"""Records and entries as points of one collection on a Qdrant server."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from qdrant_client import models
from qdrant_client.models import Condition, Filter

from ouroboros.stores.qdrant.collections import INTEGER, KEYWORD, CollectionSpec, open_collection
from ouroboros.stores.qdrant.server import QdrantServer

FREED_AT = "freed"
"""When a point was emptied, in seconds since 1970; absent while it holds a value."""

METADATA = CollectionSpec(
    "metadata",
    models.VectorParams(size=1, distance=models.Distance.DOT),
    {"group": KEYWORD, "key": KEYWORD, "seq": INTEGER, FREED_AT: INTEGER},
)
"""Every point of a Qdrant collection has a vector; these are of one number, and mean nothing."""

_VALUES_PER_PAGE, _IDS_PER_PAGE = 100, 5000
"""Points per request: with their values, which may be large, and without."""

_MAX_GROUPS = 1_000_000

Payload: TypeAlias = Mapping[str, Any]


class Points:
    """Points with a payload in the collection that `server.name` names.

    Writes are conditional and can be repeated; the server applies them one after the other, and each
    is in its log on disk before it is answered (`wait`).
    """

    def __init__(self, server: QdrantServer) -> None:
        self._server = server
        self._name = server.name
        open_collection(server, server.name, METADATA)

    def get(self, ids: Sequence[str], fields: Sequence[str] | bool = True) -> dict[str, Payload]:
        """Those of the points that are there, by their ids."""
        payloads = {}
        for start in range(0, len(ids), _VALUES_PER_PAGE):
            page = list(ids[start : start + _VALUES_PER_PAGE])
            points = self._server.request(
                lambda q, p=page: q.retrieve(self._name, p, with_payload=_payload_selector(fields))
            )
            payloads |= {str(point.id): point.payload or {} for point in points}
        return payloads

    def insert(self, id: str, payload: Payload) -> None:
        """Add a point, unless one is there: then nothing happens, and nothing says so."""
        self._upsert(id, payload, None)

    def replace(self, id: str, payload: Payload, nonce: str) -> None:
        """Give a point another payload, unless its nonce is not this: then as above."""
        self._upsert(id, payload, models.Filter(must=[_equals("nonce", nonce)]))

    def clear_values(self, group: str, first: int, last: int, now: int) -> None:
        """Take the values of a log's points away: first they are hidden, then they are gone."""
        condition = _all_of(_equals("group", group), _in_range("seq", first, last))
        selector = models.FilterSelector(filter=condition)
        self._server.write(lambda q: q.set_payload(self._name, {FREED_AT: now}, selector, wait=True))
        self._server.write(lambda q: q.delete_payload(self._name, ["value"], selector, wait=True))

    def delete_freed(self, group: str, cutoff: int, below: int | None = None) -> None:
        """Delete a group's points that were emptied before a time; of a log, those below a number."""
        conditions: list[Condition] = [_equals("group", group), _in_range(FREED_AT, 0, cutoff - 1)]
        conditions += [_in_range("seq", 0, below - 1)] if below is not None else []
        selector = models.FilterSelector(filter=_all_of(*conditions))
        self._server.write(lambda q: q.delete(self._name, selector, wait=True))

    def list_keys(self, group: str, prefix: str) -> Iterator[tuple[str, str]]:
        """Key and id of every point of a group that holds a value, in no order."""
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
        """The first points of a log after a number that hold a value, in order."""
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
        """The highest number in a log, of points without a value too; 0 if there is none."""
        order = models.OrderBy(key="seq", direction=models.Direction.DESC)
        condition = _all_of(_equals("group", group))
        points, _ = self._server.request(
            lambda q: q.scroll(self._name, condition, limit=1, order_by=order, with_payload=["seq"])
        )
        return (points[0].payload or {})["seq"] if points else 0

    def list_groups(self, prefix: str, with_values: bool) -> list[str]:
        """Names of the groups that start so; with `with_values`, of those where a point holds a value."""
        has_prefix = models.FieldCondition(key="group", match=models.MatchPrefix(prefix=prefix))
        condition = _all_of(has_prefix, *([_has_value()] if with_values else []))
        answer = self._server.request(
            lambda q: q.facet(self._name, "group", facet_filter=condition, limit=_MAX_GROUPS, exact=True)
        )
        return sorted(str(hit.value) for hit in answer.hits if hit.count)

    def _upsert(self, id: str, payload: Payload, condition: Filter | None) -> None:
        """Without a condition insert only, with one update only: an unmet one alone would insert."""
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
