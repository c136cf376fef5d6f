"""A server in this process on a real socket of 127.0.0.1, for tests that call it as its users do."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.registry import Registry
from ouroboros.server.app import create_app
from ouroboros.server.jobs import JobRunner
from ouroboros.server.run import DrainingServer
from ouroboros.server.service import Service
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.metadata.base import MetadataStore
from ouroboros.stores.open import open_blobs, open_metadata

OpenBackend = Callable[[], Any]


class RunningServer:
    """A server's address, its parts, and a way to run something on its event loop."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.ready = threading.Event()
        self.engine: AdapterLearningEngine
        self.service: Service
        self.runner: JobRunner
        self.warm: asyncio.Event
        self.loop: asyncio.AbstractEventLoop
        self.uvicorn: DrainingServer

    def call(self, work: Any) -> Any:
        """The result of a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()


@contextmanager
def run_server(
    open_backend: OpenBackend,
    metadata: MetadataStore | None = None,
    blobs: BlobStore | None = None,
    prepare: Callable[[AdapterLearningEngine], Any] | None = None,
    **options: Any,
) -> Iterator[RunningServer]:
    """A server on a free port. Connections wait in the socket's backlog until it accepts them."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = RunningServer(listening.getsockname()[1])
    stores = (metadata or open_metadata("memory:"), blobs or open_blobs("memory:"))

    async def serve() -> None:
        server.loop = asyncio.get_running_loop()
        async with AdapterLearningEngine(open_backend(), Registry(*stores)) as server.engine:
            if prepare is not None:
                await prepare(server.engine)
            app = create_app(server.engine, *stores, **options)
            server.service = app.state.service
            server.runner = app.state.runner
            server.warm = app.state.warm
            server.uvicorn = DrainingServer(app)
            server.ready.set()
            await server.uvicorn.serve(sockets=[listening])

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert server.ready.wait(300)
        yield server
    finally:
        server.uvicorn.should_exit = True
        thread.join()
        listening.close()
