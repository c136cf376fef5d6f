"""`ouroboros serve` and `ouroboros keys` as programs of their own, and how a server leaves."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from ouroboros.testing.backend import FakeBackend
from tests.server.running import run_server

BODY = {"model": "fake", "messages": [{"role": "user", "content": "one two three"}]}


@pytest.fixture
def environment(tiny: Path) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("OUROBOROS_")}
    return {**plain, "OUROBOROS_MODEL": str(tiny), "PYTHONWARNINGS": "default"}


@contextmanager
def start_program(folder: Path, environment: dict[str, str], *options: str) -> Iterator[tuple]:
    """The program, and the URL that it prints once it listens."""
    command = [sys.executable, "-m", "ouroboros", "serve", "--json", "--port", "0", *options]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            assert program.stdout is not None
            lines = [program.stdout.readline() for _ in range(4)]
            assert lines[0], program.stderr.read() if program.stderr else ""
            yield program, json.loads("".join(lines))["url"]
        finally:
            program.kill()


def run_keys(folder: Path, environment: dict[str, str], *arguments: str) -> dict:
    command = [sys.executable, "-m", "ouroboros", "keys", *arguments, "--json"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_program_serves_this_machine_and_leaves_on_sigterm(tmp_path, environment):
    with start_program(tmp_path, environment) as (program, url):
        models = httpx2.get(f"{url}/v1/models", timeout=60).json()["data"]
        assert [model["id"] for model in models][1:] == ["auto"]
        chat = {"model": models[0]["id"], "messages": BODY["messages"], "max_tokens": 3}
        answer = httpx2.post(f"{url}/v1/chat/completions", json=chat, timeout=60)
        assert answer.status_code == 200
        program.send_signal(signal.SIGTERM)
        _, logs = program.communicate(timeout=60)
        assert program.returncode == 0, logs
    lines = [json.loads(line) for line in logs.splitlines() if line.startswith("{")]
    assert [(line["path"], line["status"]) for line in lines] == [
        ("/v1/models", 200),
        ("/v1/chat/completions", 200),
    ]
    assert "one two three" not in logs
    assert "Traceback" not in logs


def test_with_keys_every_request_needs_one(tmp_path, environment):
    key = run_keys(tmp_path, environment, "create", "ann", "--scopes", "read")
    stored = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert key["secret"].encode() not in stored
    with (
        start_program(tmp_path, environment) as (_, url),
        httpx2.Client(base_url=url, timeout=60) as http,
    ):
        assert http.get("/v1/models").status_code == 401
        assert http.get("/v1/models").headers["www-authenticate"] == "Bearer"
        mine = {"authorization": f"Bearer {key['secret']}"}
        assert http.get("/v1/models", headers=mine).status_code == 200
        refused = http.post("/v1/chat/completions", json=BODY, headers=mine)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "missing_scope")
        assert "generate" in refused.json()["error"]["message"]
        run_keys(tmp_path, environment, "revoke", key["id"])
        assert http.get("/v1/models", headers=mine).json()["error"]["code"] == "invalid_key"


@pytest.mark.parametrize("options", [("--host", "0.0.0.0"), ("--port", "PORT"), ("--queue", "0")])
def test_what_cannot_be_served_is_refused_in_one_line(tmp_path, environment, options):
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = str(occupied.getsockname()[1])
        words = [port if word == "PORT" else word for word in options]
        command = [sys.executable, "-m", "ouroboros", "serve", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")


class GatedBackend(FakeBackend):
    """Streams one piece, and the others once the gate is open."""

    gate: asyncio.Event

    async def stream(self, request, cancel=None):
        async for piece in super().stream(request, cancel):
            yield piece
            await self.gate.wait()


def test_a_draining_server_finishes_its_answers_and_takes_no_new_work():
    async def close_gate(engine):
        GatedBackend.gate = asyncio.Event()

    with (
        run_server(GatedBackend, prepare=close_gate) as server,
        httpx2.Client(base_url=server.url, timeout=60) as http,
        http.stream("POST", "/v1/chat/completions", json=BODY | {"stream": True}) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        server.uvicorn.handle_exit(signal.SIGTERM, None)
        server.call(server.service.draining.wait())
        ready = http.get("/ready")
        assert (ready.status_code, ready.json()["checks"]["draining"]) == (503, "yes")
        refused = http.post("/v1/chat/completions", json=BODY)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert int(refused.headers["retry-after"]) >= 1
        server.loop.call_soon_threadsafe(GatedBackend.gate.set)
        texts = [line for line in lines if line]
        assert texts[-1] == "data: [DONE]"
        assert '"finish_reason":"stop"' in texts[-2]
