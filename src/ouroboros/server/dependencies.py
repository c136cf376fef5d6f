"""What handlers ask FastAPI for: the service, and a caller with a scope."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from ouroboros.registry.threads import in_thread
from ouroboros.server.errors import RequestError
from ouroboros.server.keys import LOCAL, Caller, find_caller
from ouroboros.server.service import Service

T = TypeVar("T")

KEY_COOKIE = "ouroboros_key"
"""The cookie by which a browser that has signed in sends its key (see `page.session`)."""


def get_service(request: Request) -> Service:
    """Returns the service that this application serves."""
    return request.app.state.service


ServiceDep = Annotated[Service, Depends(get_service)]


def _require_scope(scope: str) -> Callable[[Request], Awaitable[Caller]]:
    async def authenticate(request: Request) -> Caller:
        service = get_service(request)
        if service.keyless:
            return LOCAL
        caller = await in_thread(find_caller, service.records, _read_authorization(request))
        caller.require(scope)
        return caller

    return authenticate


def _read_authorization(request: Request) -> str | None:
    """The header, or else the cookie of a browser, which counts for requests of the page itself only."""
    header = request.headers.get("authorization")
    cookie = request.cookies.get(KEY_COOKIE)
    if header is not None or cookie is None:
        return header
    site = request.headers.get("sec-fetch-site", "same-origin")
    return f"Bearer {cookie}" if site in ("same-origin", "none") else None


ReadCaller = Annotated[Caller, Depends(_require_scope("read"))]
GenerateCaller = Annotated[Caller, Depends(_require_scope("generate"))]
FeedbackCaller = Annotated[Caller, Depends(_require_scope("feedback"))]
TrainCaller = Annotated[Caller, Depends(_require_scope("train"))]
AdminCaller = Annotated[Caller, Depends(_require_scope("admin"))]


async def run_while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`, and cancel it when the client goes: its rows leave the batch."""
    task = asyncio.ensure_future(work)
    disconnect = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            raise RequestError(499, "The client went away.", code="cancelled")
        return task.result()
    finally:
        for pending in (task, disconnect):
            pending.cancel()
        await asyncio.wait({task, disconnect})


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
