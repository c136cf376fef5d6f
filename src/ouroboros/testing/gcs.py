"""A stand-in for Google Cloud Storage: the part of its XML API that obstore speaks, in memory.

It is made from Google's documentation and shows that what we send is right by it. It is not Google's
server, and cannot show that Google's does what is documented: `TEST_BUCKET=gs://...` runs the same laws
there. https://cloud.google.com/storage/docs/xml-api/overview

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

_PAGE = 50
"""Keys in one page of a listing: few, so that tests meet a second page."""


class Stored(NamedTuple):
    """One object; `generation` is never used again, also not for the same name."""

    data: bytes
    generation: int
    date: str

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.data).hexdigest()}"'


class Bucket:
    """Objects by name. Methods are called from many threads."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._objects: dict[str, Stored] = {}
        self._generations = count(1)
        self._lock = threading.Lock()

    def put(self, name: str, data: bytes, match: str | None) -> Stored | None:
        """Store if the object's generation is `match` (0: there is none); None if it is another."""
        with self._lock:
            before = self._objects.get(name)
            if match is not None and int(match) != (before.generation if before else 0):
                return None
            stored = Stored(data, next(self._generations), formatdate(usegmt=True))
            self._objects[name] = stored
            return stored

    def get(self, name: str) -> Stored | None:
        return self._objects.get(name)

    def delete(self, name: str) -> bool:
        with self._lock:
            return self._objects.pop(name, None) is not None

    def page(self, prefix: str, after: str) -> list[tuple[str, Stored]]:
        """The first objects that sort after a name, in order, one more than a page holds."""
        with self._lock:
            found = sorted(
                (n, o) for n, o in self._objects.items() if n.startswith(prefix) and n > after
            )
        return found[: _PAGE + 1]


class _Handler(BaseHTTPRequestHandler):
    """Requests on /BUCKET and /BUCKET/NAME, the name with its slashes quoted."""

    protocol_version = "HTTP/1.1"
    bucket: Bucket
    token: str

    def do_PUT(self) -> None:
        data = self.rfile.read(length := int(self.headers["Content-Length"]))
        if len(data) < length:  # the connection broke within the upload: nothing was stored
            self.close_connection = True
        elif name := self._name():
            stored = self.bucket.put(name, data, self.headers.get("x-goog-if-generation-match"))
            if stored is None:
                self._refuse(412, "PreconditionFailed")
            else:
                self._answer(200, b"", stored)

    def do_GET(self) -> None:
        name = self._name()
        if name == "":
            self._answer(200, self._listing().encode())
        elif name and (stored := self.bucket.get(name)):
            start, end = self._range(len(stored.data))
            partial = "Range" in self.headers
            more = {"Content-Range": f"bytes {start}-{end - 1}/{len(stored.data)}"} if partial else {}
            self._answer(206 if partial else 200, stored.data[start:end], stored, more)
        elif name:
            self._refuse(404, "NoSuchKey")

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        if name := self._name():
            if self.bucket.delete(name):
                self._answer(204, b"")
            else:
                self._refuse(404, "NoSuchKey")

    def _name(self) -> str | None:
        """The object's name, "" for the bucket itself; None if the request is refused already."""
        bucket, _, name = urlsplit(self.path).path.lstrip("/").partition("/")
        if self.headers.get("Authorization") != f"Bearer {self.token}":
            self._refuse(401, "AuthenticationRequired")
        elif unquote(bucket) != self.bucket.name:
            self._refuse(404, "NoSuchBucket")
        else:
            return unquote(name)
        return None

    def _range(self, size: int) -> tuple[int, int]:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "bytes=0-"))
        if asked is None:
            return 0, size
        return int(asked[1]), min(int(asked[2]) + 1, size) if asked[2] else size

    def _listing(self) -> str:
        query = parse_qs(urlsplit(self.path).query)
        prefix, after = (query.get(k, [""])[0] for k in ("prefix", "continuation-token"))
        found = self.bucket.page(prefix, after)
        more, found = len(found) > _PAGE, found[:_PAGE]
        contents = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(o.etag)}</ETag><Size>{len(o.data)}</Size></Contents>"
            for name, o in found
        )
        last = f"<NextContinuationToken>{escape(found[-1][0])}</NextContinuationToken>" if more else ""
        return f"<ListBucketResult>{contents}{last}</ListBucketResult>"

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code></Error>".encode())

    def _answer(
        self, status: int, body: bytes, stored: Stored | None = None, more: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        if stored:
            self.send_header("ETag", stored.etag)
            self.send_header("Last-Modified", stored.date)
            self.send_header("x-goog-generation", str(stored.generation))
        for name, value in (more or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


def serve(port: int, bucket: str, token: str) -> None:
    """Serve one bucket on 127.0.0.1 until SIGINT; `token` is what callers must bear."""
    named = {"bucket": Bucket(bucket), "token": token}
    server = _Server(("127.0.0.1", port), type("Handler", (_Handler,), named))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    server.serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), *sys.argv[2:])
