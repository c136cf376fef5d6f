"""An emulator of a Qdrant server: the part of its REST interface that this project uses.

    python -m ouroboros.testing.qdrant PORT FOLDER [API_KEY]

It is *not* Qdrant. The engine is Qdrant's own embedded one (qdrant-edge: conditions, filters, order,
indexes). The HTTP server around it is written here, one process with one write lock. Tests against it
show that our requests and our parsing fit that engine, and what a kill does. They show nothing about a
server's locks, replicas or disks: the same tests run against a real server if `QDRANT_URL` is set.
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
_SETTINGS_FILE = "collection.json"
_DISTANCES = {"Cosine": edge.Distance.Cosine, "Dot": edge.Distance.Dot}
_MODES = {"insert_only": edge.UpdateMode.InsertOnly, "update_only": edge.UpdateMode.UpdateOnly}
_ORDERS = {"asc": edge.Direction.Asc, "desc": edge.Direction.Desc}


class RequestRefused(Exception):
    """A refused request: the HTTP status and the reason."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class EmulatedCollection:
    """One shard of the engine in a folder, beside the settings it was created with."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder = folder
        self._settings = settings
        self._lock = threading.Lock()
        shard = str(folder / "shard")
        self._shard = edge.EdgeShard.load(shard) if Path(shard).exists() else self._create(shard)

    def close(self) -> None:
        """Close the shard."""
        self._shard.close()

    def _create(self, shard: str) -> edge.EdgeShard:
        Path(shard).mkdir()
        vectors = self._settings["vectors"]
        multivector = edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
        params = edge.EdgeVectorParams(
            vectors["size"],
            _DISTANCES[vectors["distance"]],
            multivector_config=multivector if vectors.get("multivector_config") else None,
        )
        return edge.EdgeShard.create(shard, edge.EdgeConfig(vectors=params))

    def info(self, _: Any = None) -> dict[str, Any]:
        """Answer with the collection's settings and size."""
        info = self._shard.info()
        return {
            "status": "green",
            "optimizer_status": "ok",
            "segments_count": info.segments_count,
            "points_count": info.points_count,
            "payload_schema": {
                name: {"data_type": "keyword", "points": 0} for name in info.payload_schema
            },
            "config": {
                "params": {"vectors": self._settings["vectors"]},
                "metadata": self._settings.get("metadata"),
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
        """Create an index of a payload field."""
        schema = body["field_schema"]
        if isinstance(schema, dict):
            kind: Any = edge.KeywordIndexParams(prefix=schema.get("prefix"))
        else:
            kinds = edge.PayloadSchemaType
            kind = {"integer": kinds.Integer, "keyword": kinds.Keyword}[schema]
        return self._update(edge.UpdateOperation.create_field_index(body["field_name"], kind))

    def upsert(self, body: Any) -> dict[str, Any]:
        """Insert or update points, under a condition if the request has one."""
        points = [edge.Point(p["id"], p["vector"], p.get("payload")) for p in body["points"]]
        condition = _to_filter(body.get("update_filter"))
        mode = _MODES.get(body.get("update_mode") or "")
        return self._update(edge.UpdateOperation.upsert_points(points, condition, mode))

    def retrieve(self, body: Any) -> list[dict[str, Any]]:
        """Return points by their ids."""
        points = self._shard.retrieve(
            body["ids"],
            with_payload=_to_payload_selector(body),
            with_vector=bool(body.get("with_vector")),
        )
        return [_to_json(point) for point in points]

    def scroll(self, body: Any) -> dict[str, Any]:
        """Return one page of points."""
        order = body.get("order_by")
        if order:
            order = edge.OrderBy(order["key"], _ORDERS[order.get("direction") or "asc"])
        points, next_id = self._shard.scroll(
            edge.ScrollRequest(
                offset=body.get("offset"),
                limit=body.get("limit") or 10,
                filter=_to_filter(body.get("filter")),
                with_payload=_to_payload_selector(body),
                order_by=order or None,
            )
        )
        offset = None if next_id is None else str(next_id)
        return {"points": [_to_json(p) for p in points], "next_page_offset": offset}

    def facet(self, body: Any) -> dict[str, Any]:
        """Count the values of a payload field."""
        request = edge.FacetRequest(
            body["key"], body.get("limit") or 10, bool(body.get("exact")), _to_filter(body.get("filter"))
        )
        hits = self._shard.facet(request).hits
        return {"hits": [{"value": hit.value, "count": hit.count} for hit in hits]}

    def query(self, body: Any) -> dict[str, Any]:
        """Return the points nearest to a vector."""
        points = self._shard.query(
            edge.QueryRequest(
                limit=body.get("limit") or 10,
                query=edge.Query.Nearest(body["query"]["nearest"]),
                filter=_to_filter(body.get("filter")),
                with_payload=_to_payload_selector(body),
                params=edge.SearchParams(exact=bool((body.get("params") or {}).get("exact"))),
            )
        )
        return {"points": [{**_to_json(p), "score": p.score, "version": p.version} for p in points]}

    def set_payload(self, body: Any) -> dict[str, Any]:
        """Set payload fields of the points that a filter selects."""
        filter = _require_filter(body)
        return self._update(edge.UpdateOperation.set_payload_by_filter(filter, body["payload"]))

    def delete_payload(self, body: Any) -> dict[str, Any]:
        """Delete payload fields of the points that a filter selects."""
        return self._update(
            edge.UpdateOperation.delete_payload_by_filter(_require_filter(body), body["keys"])
        )

    def delete(self, body: Any) -> dict[str, Any]:
        """Delete points by their ids or by a filter."""
        if "points" in body:
            return self._update(edge.UpdateOperation.delete_points(body["points"]))
        return self._update(edge.UpdateOperation.delete_points_by_filter(_require_filter(body)))

    def _update(self, operation: edge.UpdateOperation) -> dict[str, Any]:
        with self._lock:
            self._shard.update(operation)
        return {"operation_id": 0, "status": "completed"}


_ROUTES: dict[tuple[str, str], Callable[[EmulatedCollection, Any], Any]] = {
    ("GET", ""): EmulatedCollection.info,
    ("PUT", "/index"): EmulatedCollection.index,
    ("PUT", "/points"): EmulatedCollection.upsert,
    ("POST", "/points"): EmulatedCollection.retrieve,
    ("POST", "/points/scroll"): EmulatedCollection.scroll,
    ("POST", "/points/query"): EmulatedCollection.query,
    ("POST", "/points/payload"): EmulatedCollection.set_payload,
    ("POST", "/points/payload/delete"): EmulatedCollection.delete_payload,
    ("POST", "/points/delete"): EmulatedCollection.delete,
    ("POST", "/facet"): EmulatedCollection.facet,
}


class QdrantEmulator:
    """The collections in a folder, which persist across restarts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        settings_files = sorted(folder.glob(f"*/{_SETTINGS_FILE}"))
        self._collections = {
            s.parent.name: EmulatedCollection(s.parent, json.loads(s.read_text()))
            for s in settings_files
        }

    def answer(self, method: str, path: str, body: Any) -> Any:
        """Answer one request of Qdrant's HTTP API."""
        if path == "/":
            return {"title": "an emulator of qdrant", "version": VERSION}
        if path == "/collections":
            return {"collections": [{"name": name} for name in sorted(self._collections)]}
        _, _, name, *rest = path.split("/")
        rest = "".join(f"/{part}" for part in rest)
        if rest == "/exists":
            return {"exists": name in self._collections}
        if (method, rest) == ("PUT", ""):
            return self._create(name, body)
        if name not in self._collections:
            raise RequestRefused(404, f"Not found: Collection `{name}` doesn't exist!")
        if (method, rest) == ("DELETE", ""):
            return self._delete(name)
        if (method, rest) not in _ROUTES:
            raise RequestRefused(404, f"the emulator has no route {method} {rest}")
        return _ROUTES[method, rest](self._collections[name], body)

    def _create(self, name: str, body: Any) -> bool:
        with self._lock:
            if name in self._collections:
                raise RequestRefused(409, f"Wrong input: Collection `{name}` already exists!")
            folder = self._folder / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            collection = EmulatedCollection(folder, body)
            (folder / _SETTINGS_FILE).write_text(json.dumps(body))
            self._collections[name] = collection
        return True

    def _delete(self, name: str) -> bool:
        with self._lock:
            self._collections.pop(name).close()
            shutil.rmtree(self._folder / name)
        return True


def serve(port: int, folder: Path, key: str = "") -> None:
    """Serve on 127.0.0.1 until interrupted; with a `key`, only callers that send it."""
    emulator = QdrantEmulator(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # a response in two packets would wait for the first one's acknowledgement

        def _respond(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = 200, {}
            try:
                if key and self.headers.get("api-key") != key:
                    raise RequestRefused(401, "Must provide an API key or an Authorization bearer token")
                body = json.loads(content) if content else None
                result = emulator.answer(self.command, urlsplit(self.path).path, body)
                answer = result if self.path == "/" else {"result": result, "status": "ok", "time": 0.0}
            except RequestRefused as refused:
                status, answer = refused.status, {"status": {"error": str(refused)}, "time": 0.0}
            except Exception as error:
                status, answer = 500, {"status": {"error": f"{error!r}"}, "time": 0.0}
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = _respond

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    ThreadingHTTPServer.daemon_threads = True
    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.serve_forever()


def _require_filter(body: Any) -> edge.Filter:
    condition = _to_filter(body["filter"])
    if condition is None:
        raise RequestRefused(400, "a filter is missing")
    return condition


def _to_filter(body: Any) -> edge.Filter | None:
    return edge.Filter(must=[_to_condition(c) for c in body["must"]]) if body else None


def _to_condition(body: Any) -> Any:
    if "is_empty" in body:
        return edge.IsEmptyCondition(body["is_empty"]["key"])
    match, span = body.get("match"), body.get("range")
    if span:
        span = edge.RangeFloat(**{k: v for k, v in span.items() if v is not None})
        return edge.FieldCondition(body["key"], range=span)
    if "prefix" in match:
        return edge.FieldCondition(body["key"], match=edge.MatchPrefix(match["prefix"]))
    return edge.FieldCondition(body["key"], match=edge.MatchValue(match["value"]))


def _to_payload_selector(body: Any) -> Any:
    selector = body.get("with_payload")
    return (
        edge.PayloadSelector.Include(selector) if isinstance(selector, list) else selector is not False
    )


def _to_json(point: Any) -> dict[str, Any]:
    return {"id": str(point.id), "payload": point.payload}


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:4])
