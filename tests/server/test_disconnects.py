"""What happens to an answer whose client leaves, or whose backend fails in the middle."""

import asyncio
import json
import socket
import threading

import httpx2
import openai
import pytest

from ouroboros.domain.errors import BackendError
from ouroboros.testing.backend import FakeBackend
from tests.server.running import run_server

BODY = {"model": "fake", "messages": [{"role": "user", "content": "one two three"}]}


class EndlessBackend(FakeBackend):
    """Never finishes an answer, and notes when one is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.cancelled = threading.Event()

    async def generate(self, requests, cancel=None):
        self.reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise AssertionError("nobody sets that event")


class FailingBackend(FakeBackend):
    """Breaks after the first piece of a stream."""

    async def stream(self, request, cancel=None):
        async for piece in super().stream(request, cancel):
            yield piece
            raise BackendError("The backend broke.", hint="Ask again.")


def test_an_answer_is_cancelled_when_its_client_leaves():
    backend = EndlessBackend()
    with run_server(lambda: backend) as server:
        payload = json.dumps(BODY).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\n"
                + f"Content-Length: {len(payload)}\r\n\r\n".encode()
                + payload
            )
            assert backend.reached.wait(60)
        assert backend.cancelled.wait(60)
        server.call(server.service.idle.wait())
        assert server.service.active == 0


def test_an_error_in_the_middle_of_a_stream_is_raised_by_the_client():
    with run_server(FailingBackend) as server:
        with httpx2.Client(base_url=server.url, timeout=60) as http:
            text = http.post("/v1/chat/completions", json=BODY | {"stream": True}).text
        events = [line for line in text.splitlines() if line]
        assert events[-1] == "data: [DONE]"
        assert json.loads(events[-2][6:])["error"]["code"] == "backend_error"
        with open_client(server.url) as client:
            stream = client.chat.completions.create(**BODY, stream=True)
            with pytest.raises(openai.APIError, match="The backend broke"):
                list(stream)
        server.call(server.service.idle.wait())
        assert server.service.active == 0


def open_client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
