"""A proxy to a cloud's emulator that makes single requests fail."""

import http.client
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

_HOP_HEADERS = ("content-length", "connection", "transfer-encoding", "server", "date")
"""Headers that this way sets itself."""

_HANG_SECONDS = 5.0
"""Seconds that a request hangs at most."""


class Refusal(NamedTuple):
    """A cloud's error response, as documented."""

    status: int
    code: str
    message: str = ""


class FaultyProxy:
    """Forwards requests to `target`; the faults in `faults` happen to the next requests, in order.

    cut      the connection breaks within the upload, or instead of the answer
    half     the connection breaks within the answer
    lost     the server does what it is asked, and the connection breaks before it says so
    500, 503  the server reports an error of its own, and does nothing
    slow     the answer takes a while
    hang     there is no answer
    or the name of one of `refusals`
    """

    def __init__(self, target: int, refusals: Mapping[str, Refusal]) -> None:
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.port = 0
        self.closed = threading.Event()
        self._handler = type("Handler", (_ProxyHandler,), {"proxy": self, "target": target})
        self.refusals = refusals

    def __enter__(self) -> "FaultyProxy":
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self._close()

    def restart(self, seconds: float) -> threading.Thread:
        """Stop at once and start again after `seconds`; returns the thread that does it."""
        self._close()
        coming = threading.Thread(target=lambda: (time.sleep(seconds), self._open()))
        coming.start()
        return coming

    def _open(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=[0.05], daemon=True).start()

    def _close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _ProxyHandler(BaseHTTPRequestHandler):
    proxy: FaultyProxy
    target: int

    def do_GET(self) -> None:
        fault = self.proxy.faults.pop(0) if self.proxy.faults else ""
        self.proxy.requests.append(fault)
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length // 2 if fault == "cut" else length)
        if fault == "cut":
            self._drop_connection()
        elif fault == "hang":
            self.proxy.closed.wait(_HANG_SECONDS)
            self._drop_connection()
        elif fault in ("500", "503"):
            self._send_response(int(fault), b"", {})
        elif fault in self.proxy.refusals:
            status, code, message = self.proxy.refusals[fault]
            text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
            self._send_response(status, text.encode(), {})
        else:
            time.sleep(0.2 if fault == "slow" else 0)
            self._forward(body, fault)

    do_PUT = do_HEAD = do_POST = do_DELETE = do_GET

    def _forward(self, body: bytes, fault: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.target)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if fault == "lost":
            self._drop_connection()
        else:
            self._send_response(answer.status, data, dict(answer.getheaders()), half=fault == "half")

    def _send_response(
        self, status: int, body: bytes, headers: dict[str, str], half: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _HOP_HEADERS:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if half else body)

    def _drop_connection(self) -> None:
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""
