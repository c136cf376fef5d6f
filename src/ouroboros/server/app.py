"""`create_app`: the ASGI application on an engine and its stores."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from ouroboros.domain.errors import OuroborosError
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.threads import in_thread
from ouroboros.server import adapters, feedback, operation
from ouroboros.server.errors import install_error_handlers
from ouroboros.server.guard import RequestGuard
from ouroboros.server.jobs import JobRunner
from ouroboros.server.openai import chat, completions, files, fine_tuning, models
from ouroboros.server.page import changes, session, shell, views
from ouroboros.server.records import ServiceRecords, time_key
from ouroboros.server.service import Limits, Service
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.metadata.base import MetadataStore

HOUR = 3600.0


def create_app(
    engine: AdapterLearningEngine,
    metadata: MetadataStore,
    blobs: BlobStore,
    *,
    limits: Limits | None = None,
    keyless: bool = True,
    root_path: str = "",
) -> FastAPI:
    """The server's application. `metadata` and `blobs` are the stores that the engine stands on.

    With `keyless`, whoever reaches it may do everything: it then answers only requests that name this
    machine. Otherwise every request needs a key (see `server.keys`). `root_path` is the path prefix
    under which a proxy serves it. The caller closes the engine.
    """
    service = Service(engine, ServiceRecords(metadata, blobs), limits or Limits(), keyless)
    app = FastAPI(
        title="Ouroboros",
        description="OpenAI's API on one frozen model with many small adapters that learn.",
        lifespan=_run_service,
        redirect_slashes=False,
        # FastAPI's pages load scripts of another host; the reference is at /openapi.json.
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    app.state.warm = asyncio.Event()
    app.state.runner = runner = JobRunner(service)
    app.state.watcher = changes.ChangeWatcher(service, runner)
    service.on_drain.append(runner.stop)
    app.add_middleware(RequestGuard, service=service, root_path=root_path)
    install_error_handlers(app)
    app.get("/health", tags=["Operation"])(get_health)
    app.get("/ready", tags=["Operation"])(get_readiness)
    for module in (chat, completions, models, files, fine_tuning, feedback, operation):
        app.include_router(module.router)
    # The page's routes for one adapter stand before the one that takes any path.
    for module in (session, changes, views, shell):
        app.include_router(module.router)
    app.include_router(adapters.router)
    app.include_router(adapters.vllm_router)
    return app


@asynccontextmanager
async def _run_service(app: FastAPI) -> AsyncIterator[None]:
    """Load the model and take up what an earlier run left, beside the first requests."""
    service: Service = app.state.service
    runner: JobRunner = app.state.runner
    background = [
        asyncio.ensure_future(work) for work in (_warm_up(app), _drop_expired_completions(service))
    ]
    try:
        yield
    finally:
        service.draining.set()
        await runner.stop()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)


async def _warm_up(app: FastAPI) -> None:
    """Load the model, and go on with what an earlier run acknowledged. `/ready` tells of errors."""
    service: Service = app.state.service
    with suppress(OuroborosError):
        await service.base()
        await app.state.runner.resume_all()
        (await service.engine.learn_pending()).unwrap()
    app.state.warm.set()


async def _drop_expired_completions(service: Service) -> None:
    """Once an hour, forget completions that are older than they are kept."""
    while True:
        oldest = f"chatcmpl-{time_key(time.time() - service.limits.keep_days * 86400)}"
        with suppress(OuroborosError):
            while keys := await in_thread(service.records.completions.keys_before, oldest):
                for key in keys:
                    await in_thread(service.records.stored.delete, key)
                    await in_thread(service.records.completions.delete, key)
        await asyncio.sleep(HOUR)


async def get_health() -> dict[str, str]:
    """The process is alive. Touches neither the model nor the store."""
    return {"status": "ok"}


async def get_readiness(request: Request) -> JSONResponse:
    """Whether the server takes work: 200, or 503 with the reason of each check that fails."""
    service: Service = request.app.state.service
    checks: dict[str, str] = {"draining": "yes" if service.draining.is_set() else "ok"}
    checks["model"] = await _check(lambda: service.base())
    checks["store"] = await _check(lambda: in_thread(service.records.check_writable))
    ready = all(result == "ok" for result in checks.values())
    return JSONResponse(
        {"status": "ready" if ready else "not ready", "checks": checks}, 200 if ready else 503
    )


async def _check(work: Callable[[], Any]) -> str:
    try:
        await work()
    except OuroborosError as error:
        return str(error)
    return "ok"
