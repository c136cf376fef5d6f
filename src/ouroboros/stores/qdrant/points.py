"""Records and entries as points of one collection on a Qdrant server."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from qdrant_client import models
from qdrant_client.models import Condition, Filter

from ouroboros.stores.qdrant.collections import INTEGER, KEYWORD, Collection, open_collection
from ouroboros.stores.qdrant.server import Server

FREED = "freed"
"""When a point was emptied, in seconds since 1970; absent while it holds a value."""

METADATA = Collection(
    "metadata",
    models.VectorParams(size=1, distance=models.Distance.DOT),
    {"group": KEYWORD, "key": KEYWORD, "seq": INTEGER, FREED: INTEGER},
)
"""Every point of a Qdrant collection has a vector; these are of one number, and mean nothing."""

_VALUES, _IDS = 100, 5000
"""Points per request: with their values, which may be large, and without."""

_ALL = 1_000_000

Payload: TypeAlias = Mapping[str, Any]


class Points:
    """Points with a payload in the collection that `server.name` names.

    Writes are conditional and can be repeated; the server applies them one after the other, and each
    is in its log on disk before it is answered (`wait`).
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._name = server.name
        open_collection(server, server.name, METADATA)

    def get(self, ids: Sequence[str], fields: Sequence[str] | bool = True) -> dict[str, Payload]:
        """Those of the points that are there, by their ids."""
        found = {}
        for start in range(0, len(ids), _VALUES):
            page = list(ids[start : start + _VALUES])
            points = self._server.ask(
                lambda q, p=page: q.retrieve(self._name, p, with_payload=_of(fields))
            )
            found |= {str(point.id): point.payload or {} for point in points}
        return found

    def insert(self, id: str, payload: Payload) -> None:
        """Add a point, unless one is there: then nothing happens, and nothing says so."""
        self._upsert(id, payload, None)

    def replace(self, id: str, payload: Payload, nonce: str) -> None:
        """Give a point another payload, unless its nonce is not this: then as above."""
        self._upsert(id, payload, models.Filter(must=[_is("nonce", nonce)]))

    def empty(self, group: str, first: int, last: int, now: int) -> None:
        """Take the values of a log's points away: first they are hidden, then they are gone."""
        chosen = _filter(_is("group", group), _range("seq", first, last))
        where = models.FilterSelector(filter=chosen)
        self._server.write(lambda q: q.set_payload(self._name, {FREED: now}, where, wait=True))
        self._server.write(lambda q: q.delete_payload(self._name, ["value"], where, wait=True))

    def remove_freed(self, group: str, before: int, below: int | None = None) -> None:
        """Delete a group's points that were emptied before a time; of a log, those below a number."""
        conditions: list[Condition] = [_is("group", group), _range(FREED, 0, before - 1)]
        conditions += [_range("seq", 0, below - 1)] if below is not None else []
        where = models.FilterSelector(filter=_filter(*conditions))
        self._server.write(lambda q: q.delete(self._name, where, wait=True))

    def keys(self, group: str, prefix: str) -> Iterator[tuple[str, str]]:
        """Key and id of every point of a group that holds a value, in no order."""
        conditions: list[Condition] = [_is("group", group), _holds_a_value()]
        if prefix:
            match = models.MatchPrefix(prefix=prefix)
            conditions.append(models.FieldCondition(key="key", match=match))
        offset = None
        while True:
            points, offset = self._server.ask(
                lambda q, o=offset: q.scroll(
                    self._name, _filter(*conditions), limit=_IDS, offset=o, with_payload=["key"]
                )
            )
            yield from (((point.payload or {})["key"], str(point.id)) for point in points)
            if offset is None:
                return

    def log(self, group: str, after: int, limit: int) -> list[Payload]:
        """The first points of a log after a number that hold a value, in order."""
        order = models.OrderBy(key="seq", direction=models.Direction.ASC)
        found: list[Payload] = []
        while len(found) < limit:
            chosen = _filter(_is("group", group), _range("seq", after + 1, None), _holds_a_value())
            size = min(_VALUES, limit - len(found))
            points, _ = self._server.ask(
                lambda q, c=chosen, s=size: q.scroll(self._name, c, limit=s, order_by=order)
            )
            found += [point.payload or {} for point in points]
            if len(points) < size:
                break
            after = found[-1]["seq"]
        return found

    def last(self, group: str) -> int:
        """The highest number in a log, of points without a value too; 0 if there is none."""
        order = models.OrderBy(key="seq", direction=models.Direction.DESC)
        chosen = _filter(_is("group", group))
        points, _ = self._server.ask(
            lambda q: q.scroll(self._name, chosen, limit=1, order_by=order, with_payload=["seq"])
        )
        return (points[0].payload or {})["seq"] if points else 0

    def groups(self, prefix: str, valued: bool) -> list[str]:
        """Names of the groups that start so; with `valued`, of those where a point holds a value."""
        starts = models.FieldCondition(key="group", match=models.MatchPrefix(prefix=prefix))
        chosen = _filter(starts, *([_holds_a_value()] if valued else []))
        answer = self._server.ask(
            lambda q: q.facet(self._name, "group", facet_filter=chosen, limit=_ALL, exact=True)
        )
        return sorted(str(hit.value) for hit in answer.hits if hit.count)

    def _upsert(self, id: str, payload: Payload, condition: Filter | None) -> None:
        """Without a condition insert only, with one update only: an unmet one alone would insert."""
        mode = models.UpdateMode.UPDATE_ONLY if condition else models.UpdateMode.INSERT_ONLY
        point = models.PointStruct(id=id, vector=[0.0], payload=dict(payload))
        self._server.write(
            lambda q: q.upsert(self._name, [point], wait=True, update_filter=condition, update_mode=mode)
        )


def _of(fields: Sequence[str] | bool) -> list[str] | bool:
    return fields if isinstance(fields, bool) else list(fields)


def _filter(*conditions: Condition) -> Filter:
    return models.Filter(must=list(conditions))


def _is(key: str, value: str) -> Condition:
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _range(key: str, first: int, last: int | None) -> Condition:
    return models.FieldCondition(key=key, range=models.Range(gte=first, lte=last))


def _holds_a_value() -> Condition:
    return models.IsEmptyCondition(is_empty=models.PayloadField(key=FREED))
