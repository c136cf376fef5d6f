"""`RequestGuard`: what every request passes before its handler.

It gets an id, is checked for where it comes from, may send its body only so slowly and so long, and
leaves one log line.
"""

import asyncio
import json
import logging
import re
import secrets
import time
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ouroboros.server.errors import RequestError, error_response
from ouroboros.server.service import Service

access = logging.getLogger("ouroboros.server.access")

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
_FILE_PATHS = ("/v1/files", "/v1/training/preview")
_READS = ("GET", "HEAD", "OPTIONS")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestGuard:
    """ASGI middleware around the whole app. Log lines never hold a prompt, an answer or a key."""

    def __init__(self, app: ASGIApp, service: Service, root_path: str = "") -> None:
        self._app = app
        self._service = service
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if self._root_path:  # whether or not the proxy has stripped the prefix from the path
            scope = {**scope, "root_path": self._root_path}
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        sent_id = headers.get("x-request-id", "")
        request_id = sent_id if _REQUEST_ID.fullmatch(sent_id) else f"req_{secrets.token_hex(12)}"
        started, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            self._check_origin(scope["method"], headers)
            path = scope["path"].removeprefix(self._root_path)
            limits = self._service.limits
            body = _LimitedBody(receive, self._body_limit(path), limits.body_seconds)
            await self._app(scope, body, send_with_id)
        except RequestError as error:
            if not status:
                await error_response(error)(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            self._service.metrics.count_request(scope["method"], status, seconds)
            line = {
                "request_id": request_id,
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "ms": round(seconds * 1000, 1),
            }
            access.info(json.dumps(line))

    def _body_limit(self, path: str) -> int:
        limits = self._service.limits
        return limits.file_bytes if path in _FILE_PATHS else limits.body_bytes

    def _check_origin(self, method: str, headers: dict[str, str]) -> None:
        """Without keys, only this machine's own programs and pages may call.

        A page of another site can send requests to 127.0.0.1, and by DNS rebinding even under a name of
        its own: `Origin` and `Host` tell.
        """
        if not self._service.keyless:
            return
        if urlsplit(f"//{headers.get('host', '')}").hostname not in LOCAL_HOSTS:
            raise RequestError(
                403,
                "This server has no keys and answers to 127.0.0.1 and localhost only.",
                code="forbidden_host",
            )
        origin = headers.get("origin")
        foreign = origin is not None and urlsplit(origin).hostname not in LOCAL_HOSTS
        if foreign and method not in _READS:
            raise RequestError(
                403, "Pages of other sites may not change anything here.", code="forbidden_origin"
            )


class _LimitedBody:
    """`receive` that gives up on a body that is too long, while it is read, or comes too slowly.

    It raises Starlette's error: FastAPI takes any other for a body that cannot be parsed.
    """

    def __init__(self, receive: Receive, limit: int, seconds: float) -> None:
        self._receive = receive
        self._remaining = limit
        self._limit = limit
        self._seconds = seconds
        self._complete = False

    async def __call__(self) -> Message:
        if self._complete:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._seconds)
        except TimeoutError:
            raise HTTPException(408, f"No part of the body came for {self._seconds:g} s.") from None
        self._remaining -= len(message.get("body", b""))
        if self._remaining < 0:
            raise HTTPException(413, f"The body is longer than {self._limit:,} bytes.")
        self._complete = not message.get("more_body", False)
        return message
