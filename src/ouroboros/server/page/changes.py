"""/v1/events: one stream of server-sent events that says what has changed.

An event carries no data but names: the page reads again what it shows, with ETags. Its id is a digest
of all that the caller can see. Whoever was away (a lost connection, a restarted server) sends the last
id, and is told if anything is different now: nothing needs to be replayed, and nothing can be missed.
Changes by other programs that work on the same store are seen as well.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse

from ouroboros.domain.errors import OuroborosError
from ouroboros.registry.threads import in_thread
from ouroboros.server.dependencies import ReadCaller, ServiceDep
from ouroboros.server.jobs import JobRunner
from ouroboros.server.keys import Caller
from ouroboros.server.service import Service

router = APIRouter(tags=["Page"])

POLL_SECONDS = 0.5
"""Between two looks at the store, while a page is open."""

PING_SECONDS = 15.0
"""After this silence a comment is sent, so that proxies keep the stream open."""


@dataclass(frozen=True)
class Snapshot:
    """The state of everything that changes, as short texts.

    adapters  by name: the served version, what has been learned and the last event.
    jobs      by tenant and id: the status and the last step.
    """

    adapters: Mapping[str, str] = field(default_factory=dict)
    jobs: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def visible_to(self, caller: Caller) -> dict[str, str]:
        """What the caller may see of it, by the names that the stream uses."""
        adapters = {f"adapter:{n}": state for n, state in self.adapters.items() if caller.sees(n)}
        jobs = {
            f"job:{id}": state for (tenant, id), state in self.jobs.items() if tenant == caller.tenant
        }
        return adapters | jobs


class ChangeWatcher:
    """Looks at the store while anybody listens, once for all listeners."""

    def __init__(self, service: Service, runner: JobRunner) -> None:
        self._service = service
        self._runner = runner
        self._listeners = 0
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._snapshot = Snapshot()

    async def follow(self, caller: Caller, last_id: str | None) -> AsyncIterator[bytes]:
        """Events for one caller, until the server stops or the client goes."""
        self._listeners += 1
        try:
            # 1. Say where the caller stands: all is new to a page that was away while things changed.
            if self._task is None:
                self._snapshot = await self._look()
                self._task = asyncio.ensure_future(self._watch())
            next_change = self._changed  # taken before the snapshot is read: no change can be missed
            visible = self._snapshot.visible_to(caller)
            id = _digest(visible)
            missed = ["*"] if last_id not in (None, id) else []
            yield _event(id, missed, retry=True)
            # 2. Say what changes, and that the server is still there.
            draining = asyncio.ensure_future(self._service.draining.wait())
            try:
                while not draining.done():
                    changed = asyncio.ensure_future(next_change.wait())
                    await asyncio.wait(
                        {changed, draining},
                        timeout=PING_SECONDS,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    changed.cancel()
                    next_change = self._changed
                    before, visible = visible, self._snapshot.visible_to(caller)
                    names = [n for n in before | visible if before.get(n) != visible.get(n)]
                    yield _event(_digest(visible), names) if names else b": here\n\n"
            finally:
                draining.cancel()
            # 3. The server leaves: an open stream would only hold it up.
            yield b"event: leaving\ndata: {}\n\n"
        finally:
            self._listeners -= 1
            if not self._listeners and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            with suppress(OuroborosError):  # a store that fails now is asked again
                snapshot = await self._look()
                if snapshot != self._snapshot:
                    self._snapshot = snapshot
                    self._changed.set()
                    self._changed = asyncio.Event()

    async def _look(self) -> Snapshot:
        """Read the state of all adapters and jobs. A fine-grained text would only cost more."""
        engine = self._service.engine
        ends = (await engine.list_last_events()).unwrap()
        adapters = {
            a.id.name: f"{a.head} {a.applied} {ends.get(a.id, 0)} {a.created_at.timestamp()}"
            for a in (await engine.list_adapters()).unwrap()
        }
        jobs: dict[tuple[str, str], str] = {}
        for record in await in_thread(self._service.records.jobs.all):
            progress = self._runner.progress.get(record["id"])
            step = progress.step if progress else 0
            jobs[record["tenant"], record["id"]] = f"{record['status']} {record['paused']} {step}"
        return Snapshot(adapters, jobs)


@router.get("/v1/events")
async def stream_changes(
    request: Request,
    service: ServiceDep,
    caller: ReadCaller,
    last_event_id: Annotated[str | None, Header(max_length=128)] = None,
) -> StreamingResponse:
    """Server-sent events: the names of what has changed, `adapter:NAME` and `job:ID`.

    A client that sends `Last-Event-ID` is told `*` at once if anything changed while it was away.
    """
    watcher: ChangeWatcher = request.app.state.watcher
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(
        watcher.follow(caller, last_event_id), media_type="text/event-stream", headers=headers
    )


def _event(id: str, names: list[str], *, retry: bool = False) -> bytes:
    data: dict[str, Any] = {"changed": names}
    head = "retry: 1000\n" if retry else ""
    return f"{head}id: {id}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _digest(visible: Mapping[str, str]) -> str:
    return sha256(json.dumps(sorted(visible.items())).encode()).hexdigest()[:24]
