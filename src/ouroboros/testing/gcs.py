"""An emulator of Google Cloud Storage: the part of its XML API that obstore uses, in memory.

It follows Google's documentation and shows that our requests conform to it. It cannot show that Google's
server behaves as documented: `TEST_BUCKET=gs://...` runs the same suite there.
https://cloud.google.com/storage/docs/xml-api/overview

    python gcs.py PORT BUCKET TOKEN
"""

import hashlib
import re
import signal
import sys
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_PAGE_SIZE = 50
"""Keys per page of a listing: few, so that tests reach a second page."""


class StoredObject(NamedTuple):
    """One object; its `generation` is never reused, not even for the same name."""

    data: bytes
    generation: int
    date: str

    @property
    def etag(self) -> str:
        """The quoted MD5 digest of the data."""
        return f'"{hashlib.md5(self.data).hexdigest()}"'


class Bucket:
    """Objects by name. Methods are called from many threads."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._objects: dict[str, StoredObject] = {}
        self._generations = count(1)
        self._lock = threading.Lock()

    def put(self, name: str, data: bytes, expected_generation: str | None) -> StoredObject | None:
        """Store if the object's generation is `expected_generation` (0: there is none); None if it is
        another.
        """
        with self._lock:
            previous = self._objects.get(name)
            if expected_generation is not None and int(expected_generation) != (
                previous.generation if previous else 0
            ):
                return None
            stored = StoredObject(data, next(self._generations), formatdate(usegmt=True))
            self._objects[name] = stored
            return stored

    def get(self, name: str) -> StoredObject | None:
        """Return an object, or None if there is none of this name."""
        return self._objects.get(name)

    def delete(self, name: str) -> bool:
        """Delete an object; returns whether it existed."""
        with self._lock:
            return self._objects.pop(name, None) is not None

    def list_page(self, prefix: str, after: str) -> list[tuple[str, StoredObject]]:
        """Return the first objects that sort after a name, in order: one more than a page has."""
        with self._lock:
            objects = sorted(
                (n, o) for n, o in self._objects.items() if n.startswith(prefix) and n > after
            )
        return objects[: _PAGE_SIZE + 1]


class _GcsHandler(BaseHTTPRequestHandler):
    """Requests on /BUCKET and /BUCKET/NAME, the name with its slashes quoted."""

    protocol_version = "HTTP/1.1"
    bucket: Bucket
    token: str

    def do_PUT(self) -> None:
        data = self.rfile.read(length := int(self.headers["Content-Length"]))
        if len(data) < length:  # the connection broke during the upload, so nothing is stored
            self.close_connection = True
        elif name := self._object_name():
            stored = self.bucket.put(name, data, self.headers.get("x-goog-if-generation-match"))
            if stored is None:
                self._send_error(412, "PreconditionFailed")
            else:
                self._send_response(200, b"", stored)

    def do_GET(self) -> None:
        name = self._object_name()
        if name == "":
            self._send_response(200, self._list_objects_xml().encode())
        elif name and (stored := self.bucket.get(name)):
            start, end = self._byte_range(len(stored.data))
            partial = "Range" in self.headers
            more = {"Content-Range": f"bytes {start}-{end - 1}/{len(stored.data)}"} if partial else {}
            self._send_response(206 if partial else 200, stored.data[start:end], stored, more)
        elif name:
            self._send_error(404, "NoSuchKey")

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        if name := self._object_name():
            if self.bucket.delete(name):
                self._send_response(204, b"")
            else:
                self._send_error(404, "NoSuchKey")

    def _object_name(self) -> str | None:
        """Return the object's name, "" for the bucket; None if an error was already sent."""
        bucket, _, name = urlsplit(self.path).path.lstrip("/").partition("/")
        if self.headers.get("Authorization") != f"Bearer {self.token}":
            self._send_error(401, "AuthenticationRequired")
        elif unquote(bucket) != self.bucket.name:
            self._send_error(404, "NoSuchBucket")
        else:
            return unquote(name)
        return None

    def _byte_range(self, size: int) -> tuple[int, int]:
        requested = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "bytes=0-"))
        if requested is None:
            return 0, size
        return int(requested[1]), min(int(requested[2]) + 1, size) if requested[2] else size

    def _list_objects_xml(self) -> str:
        query = parse_qs(urlsplit(self.path).query)
        prefix, after = (query.get(k, [""])[0] for k in ("prefix", "continuation-token"))
        objects = self.bucket.list_page(prefix, after)
        has_more, objects = len(objects) > _PAGE_SIZE, objects[:_PAGE_SIZE]
        contents = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(o.etag)}</ETag><Size>{len(o.data)}</Size></Contents>"
            for name, o in objects
        )
        last = (
            f"<NextContinuationToken>{escape(objects[-1][0])}</NextContinuationToken>"
            if has_more
            else ""
        )
        return f"<ListBucketResult>{contents}{last}</ListBucketResult>"

    def _send_error(self, status: int, code: str) -> None:
        self._send_response(status, f"<Error><Code>{code}</Code></Error>".encode())

    def _send_response(
        self,
        status: int,
        body: bytes,
        stored: StoredObject | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        if stored:
            self.send_header("ETag", stored.etag)
            self.send_header("Last-Modified", stored.date)
            self.send_header("x-goog-generation", str(stored.generation))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class _GcsServer(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


def serve(port: int, bucket: str, token: str) -> None:
    """Serve one bucket on 127.0.0.1 until SIGINT; callers must send the bearer `token`."""
    attributes = {"bucket": Bucket(bucket), "token": token}
    server = _GcsServer(("127.0.0.1", port), type("Handler", (_GcsHandler,), attributes))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    server.serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), *sys.argv[2:])
