"""A stand-in for a Qdrant server: the part of its REST interface that this project speaks.

    python -m ouroboros.testing.qdrant PORT FOLDER [API_KEY]

It is *not* Qdrant. The engine inside is Qdrant's own, embedded (qdrant-edge: conditions, filters, order,
indexes); what surrounds it is written here, one process with one lock for writing. It shows that our
requests and our reading of the answers fit that engine, and what a kill does. It shows nothing about a
server's locks, replicas or disks: the same tests run against a real one when `QDRANT_URL` names it.
"""

import json
import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import qdrant_edge as edge

VERSION = "1.20.0"
_SETUP = "collection.json"
_DISTANCES = {"Cosine": edge.Distance.Cosine, "Dot": edge.Distance.Dot}
_MODES = {"insert_only": edge.UpdateMode.InsertOnly, "update_only": edge.UpdateMode.UpdateOnly}
_ORDERS = {"asc": edge.Direction.Asc, "desc": edge.Direction.Desc}


class Refused(Exception):
    """An HTTP status, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Collection:
    """One shard of the engine in a folder, with what it was created with beside it."""

    def __init__(self, folder: Path, setup: Mapping[str, Any]) -> None:
        self._folder = folder
        self._setup = setup
        self._lock = threading.Lock()
        shard = str(folder / "shard")
        self._shard = edge.EdgeShard.load(shard) if Path(shard).exists() else self._create(shard)

    def close(self) -> None:
        self._shard.close()

    def _create(self, shard: str) -> edge.EdgeShard:
        Path(shard).mkdir()
        wanted = self._setup["vectors"]
        several = edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
        params = edge.EdgeVectorParams(
            wanted["size"],
            _DISTANCES[wanted["distance"]],
            multivector_config=several if wanted.get("multivector_config") else None,
        )
        return edge.EdgeShard.create(shard, edge.EdgeConfig(vectors=params))

    def info(self, _: Any = None) -> dict[str, Any]:
        found = self._shard.info()
        return {
            "status": "green",
            "optimizer_status": "ok",
            "segments_count": found.segments_count,
            "points_count": found.points_count,
            "payload_schema": {
                name: {"data_type": "keyword", "points": 0} for name in found.payload_schema
            },
            "config": {
                "params": {"vectors": self._setup["vectors"]},
                "metadata": self._setup.get("metadata"),
                "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000},
                "optimizer_config": {
                    "deleted_threshold": 0.2,
                    "vacuum_min_vector_number": 1000,
                    "default_segment_number": 0,
                    "flush_interval_sec": 5,
                },
            },
        }

    def index(self, body: Any) -> dict[str, Any]:
        schema = body["field_schema"]
        if isinstance(schema, dict):
            kind: Any = edge.KeywordIndexParams(prefix=schema.get("prefix"))
        else:
            kinds = edge.PayloadSchemaType
            kind = {"integer": kinds.Integer, "keyword": kinds.Keyword}[schema]
        return self._update(edge.UpdateOperation.create_field_index(body["field_name"], kind))

    def upsert(self, body: Any) -> dict[str, Any]:
        points = [edge.Point(p["id"], p["vector"], p.get("payload")) for p in body["points"]]
        condition = _filter(body.get("update_filter"))
        mode = _MODES.get(body.get("update_mode") or "")
        return self._update(edge.UpdateOperation.upsert_points(points, condition, mode))

    def retrieve(self, body: Any) -> list[dict[str, Any]]:
        found = self._shard.retrieve(
            body["ids"], with_payload=_payload(body), with_vector=bool(body.get("with_vector"))
        )
        return [_point(point) for point in found]

    def scroll(self, body: Any) -> dict[str, Any]:
        order = body.get("order_by")
        if order:
            order = edge.OrderBy(order["key"], _ORDERS[order.get("direction") or "asc"])
        points, following = self._shard.scroll(
            edge.ScrollRequest(
                offset=body.get("offset"),
                limit=body.get("limit") or 10,
                filter=_filter(body.get("filter")),
                with_payload=_payload(body),
                order_by=order or None,
            )
        )
        offset = None if following is None else str(following)
        return {"points": [_point(p) for p in points], "next_page_offset": offset}

    def facet(self, body: Any) -> dict[str, Any]:
        request = edge.FacetRequest(
            body["key"], body.get("limit") or 10, bool(body.get("exact")), _filter(body.get("filter"))
        )
        hits = self._shard.facet(request).hits
        return {"hits": [{"value": hit.value, "count": hit.count} for hit in hits]}

    def query(self, body: Any) -> dict[str, Any]:
        found = self._shard.query(
            edge.QueryRequest(
                limit=body.get("limit") or 10,
                query=edge.Query.Nearest(body["query"]["nearest"]),
                filter=_filter(body.get("filter")),
                with_payload=_payload(body),
                params=edge.SearchParams(exact=bool((body.get("params") or {}).get("exact"))),
            )
        )
        return {"points": [{**_point(p), "score": p.score, "version": p.version} for p in found]}

    def set_payload(self, body: Any) -> dict[str, Any]:
        chosen = _chosen(body)
        return self._update(edge.UpdateOperation.set_payload_by_filter(chosen, body["payload"]))

    def delete_payload(self, body: Any) -> dict[str, Any]:
        return self._update(edge.UpdateOperation.delete_payload_by_filter(_chosen(body), body["keys"]))

    def delete(self, body: Any) -> dict[str, Any]:
        if "points" in body:
            return self._update(edge.UpdateOperation.delete_points(body["points"]))
        return self._update(edge.UpdateOperation.delete_points_by_filter(_chosen(body)))

    def _update(self, operation: edge.UpdateOperation) -> dict[str, Any]:
        with self._lock:
            self._shard.update(operation)
        return {"operation_id": 0, "status": "completed"}


_ROUTES: dict[tuple[str, str], Callable[[Collection, Any], Any]] = {
    ("GET", ""): Collection.info,
    ("PUT", "/index"): Collection.index,
    ("PUT", "/points"): Collection.upsert,
    ("POST", "/points"): Collection.retrieve,
    ("POST", "/points/scroll"): Collection.scroll,
    ("POST", "/points/query"): Collection.query,
    ("POST", "/points/payload"): Collection.set_payload,
    ("POST", "/points/payload/delete"): Collection.delete_payload,
    ("POST", "/points/delete"): Collection.delete,
    ("POST", "/facet"): Collection.facet,
}


class StandIn:
    """The collections in a folder; they are there again after a restart."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        setups = sorted(folder.glob(f"*/{_SETUP}"))
        self._open = {s.parent.name: Collection(s.parent, json.loads(s.read_text())) for s in setups}

    def answer(self, method: str, path: str, body: Any) -> Any:
        if path == "/":
            return {"title": "a stand-in for qdrant", "version": VERSION}
        if path == "/collections":
            return {"collections": [{"name": name} for name in sorted(self._open)]}
        _, _, name, *rest = path.split("/")
        rest = "".join(f"/{part}" for part in rest)
        if rest == "/exists":
            return {"exists": name in self._open}
        if (method, rest) == ("PUT", ""):
            return self._create(name, body)
        if name not in self._open:
            raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
        if (method, rest) == ("DELETE", ""):
            return self._delete(name)
        if (method, rest) not in _ROUTES:
            raise Refused(404, f"the stand-in knows no {method} {rest}")
        return _ROUTES[method, rest](self._open[name], body)

    def _create(self, name: str, body: Any) -> bool:
        with self._lock:
            if name in self._open:
                raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
            folder = self._folder / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            made = Collection(folder, body)
            (folder / _SETUP).write_text(json.dumps(body))
            self._open[name] = made
        return True

    def _delete(self, name: str) -> bool:
        with self._lock:
            self._open.pop(name).close()
            shutil.rmtree(self._folder / name)
        return True


def serve(port: int, folder: Path, key: str = "") -> None:
    """Answer on 127.0.0.1 until interrupted; with a `key`, only to those who send it."""
    stand_in = StandIn(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in two packets would wait for the first one's receipt

        def _answer(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = 200, {}
            try:
                if key and self.headers.get("api-key") != key:
                    raise Refused(401, "Must provide an API key or an Authorization bearer token")
                body = json.loads(content) if content else None
                found = stand_in.answer(self.command, urlsplit(self.path).path, body)
                answer = found if self.path == "/" else {"result": found, "status": "ok", "time": 0.0}
            except Refused as refused:
                status, answer = refused.status, {"status": {"error": str(refused)}, "time": 0.0}
            except Exception as error:
                status, answer = 500, {"status": {"error": f"{error!r}"}, "time": 0.0}
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = _answer

        def log_message(self, format: str, *args: Any) -> None:
            """Nobody reads it."""

    ThreadingHTTPServer.daemon_threads = True
    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.serve_forever()


def _chosen(body: Any) -> edge.Filter:
    chosen = _filter(body["filter"])
    if chosen is None:
        raise Refused(400, "a filter is missing")
    return chosen


def _filter(body: Any) -> edge.Filter | None:
    return edge.Filter(must=[_condition(c) for c in body["must"]]) if body else None


def _condition(body: Any) -> Any:
    if "is_empty" in body:
        return edge.IsEmptyCondition(body["is_empty"]["key"])
    match, span = body.get("match"), body.get("range")
    if span:
        span = edge.RangeFloat(**{k: v for k, v in span.items() if v is not None})
        return edge.FieldCondition(body["key"], range=span)
    if "prefix" in match:
        return edge.FieldCondition(body["key"], match=edge.MatchPrefix(match["prefix"]))
    return edge.FieldCondition(body["key"], match=edge.MatchValue(match["value"]))


def _payload(body: Any) -> Any:
    wanted = body.get("with_payload")
    return edge.PayloadSelector.Include(wanted) if isinstance(wanted, list) else wanted is not False


def _point(point: Any) -> dict[str, Any]:
    return {"id": str(point.id), "payload": point.payload}


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:4])
