"""A way to a server on which things go wrong, one request at a time."""

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_REFUSALS = {"expired": "ExpiredToken", "wrong": "SignatureDoesNotMatch", "denied": "AccessDenied"}

_HOPS = ("content-length", "connection", "transfer-encoding", "server", "date")
"""Headers that this way sets itself."""


class Faulty:
    """Passes requests on to `target`; each of those in `next` fails in its way, first to last.

    cut      the connection breaks within the upload, or instead of the answer
    500      the server reports an error of its own, and does nothing
    slow     the answer takes a while
    expired, wrong, denied  S3's refusals
    """

    def __init__(self, target: int) -> None:
        self.next: list[str] = []
        between = self

        class Handler(_Handler):
            faults = between

            def pass_on(self, body: bytes) -> None:
                connection = http.client.HTTPConnection("127.0.0.1", target)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                self.answer(answer.status, answer.read(), dict(answer.getheaders()))
                connection.close()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]

    def __enter__(self) -> "Faulty":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    faults: Faulty

    def do_GET(self) -> None:
        fault = self.faults.next.pop(0) if self.faults.next else ""
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length // 2 if fault == "cut" else length)
        if fault == "cut":
            self.connection.close()
            self.close_connection = True
        elif fault == "500":
            self.answer(500, b"", {})
        elif fault in _REFUSALS:
            self.answer(403, f"<Error><Code>{_REFUSALS[fault]}</Code></Error>".encode(), {})
        else:
            time.sleep(0.5 if fault == "slow" else 0)
            self.pass_on(body)

    do_PUT = do_HEAD = do_POST = do_DELETE = do_GET

    def pass_on(self, body: bytes) -> None:
        raise NotImplementedError

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _HOPS:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""
