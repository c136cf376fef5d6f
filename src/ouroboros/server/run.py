"""Serving an application on a socket, and leaving in good order."""

import asyncio
import ipaddress
import socket
from contextlib import suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI

from ouroboros.domain.errors import InvalidInput
from ouroboros.server.service import Service

KEEP_ALIVE_SECONDS = 75
"""Longer than the pauses of most clients: uvicorn's 5 s make them connect anew all the time."""


def open_socket(host: str, port: int, *, keyless: bool) -> socket.socket:
    """A listening socket. Raises `InvalidInput` for a port that is taken, and for an address that others
    can reach while there is no key."""
    if keyless and not _is_loopback(host):
        raise InvalidInput(
            f"There is no key, and {host} can be reached from other machines.",
            hint="Create a key first: ouroboros keys create NAME",
        )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidInput(
            f"The server cannot listen on {host}, port {port}: {reason}.",
            hint="Choose another port with --port.",
        ) from error


async def serve(app: FastAPI, listening: socket.socket) -> None:
    """Answer requests until SIGTERM or SIGINT, and drain."""
    await DrainingServer(app).serve(sockets=[listening])


class DrainingServer(uvicorn.Server):
    """uvicorn that, told to stop, lets answers in progress finish first.

    Meanwhile it still listens: `/ready` says 503, and so does every request for new work. Trainings stop
    at a checkpoint, and go on when the server starts again. A second signal stops it at once.
    """

    def __init__(self, app: FastAPI) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="on",
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=5,
        )
        super().__init__(config)
        self._service: Service = app.state.service
        self._drain_task: asyncio.Task[None] | None = None
        self._event_loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until the process is told to stop and the requests under way are answered."""
        self._event_loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal's handler: it only wakes the event loop."""
        if self._event_loop is not None:
            self._event_loop.call_soon_threadsafe(self._start_drain)

    def _start_drain(self) -> None:
        if self._drain_task is not None:
            self.should_exit = self.force_exit = True
            return
        self._drain_task = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        self._service.draining.set()
        for stop in self._service.on_drain:
            await stop()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._service.idle.wait(), self._service.limits.drain_seconds)
        self.should_exit = True


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
