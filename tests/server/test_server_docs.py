"""Every curl line and every client line of the server's pages runs against a server."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ouroboros.backend.local import LocalBackend
from tests.server.conftest import create_tickets
from tests.server.running import RunningServer, run_server

DOCS = Path(__file__).parents[2] / "docs"
ROWS = Path(__file__).parents[2] / "examples" / "data" / "tickets" / "train.jsonl"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    def open_backend() -> LocalBackend:
        return LocalBackend.open("starter", threads=1)

    with run_server(open_backend, prepare=create_tickets) as running:
        yield running


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def test_every_curl_line_is_answered(server):
    commands = [
        command
        for block in blocks("server.md", "bash")
        for command in re.findall(r"^curl -s .*?(?=^curl|\Z)", block, re.DOTALL | re.MULTILINE)
    ]
    assert len(commands) == 8
    for command in commands:
        local = command.replace("localhost:8000", f"127.0.0.1:{server.port}")
        run = ["bash", "-c", local.replace("curl -s", "curl -sS --fail-with-body", 1)]
        done = subprocess.run(run, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (command, done.stdout, done.stderr)


@pytest.mark.parametrize("page", ["server.md", "migrate-from-openai.md"])
def test_every_client_line_runs(server, page, tmp_path):
    code = "import time\n" + "\n".join(blocks(page, "python"))
    code = code.replace("localhost:8000", f"127.0.0.1:{server.port}")
    code = code.replace('suffix="tickets"', 'suffix="moved"')
    rows = ROWS.read_text().splitlines()[:24]
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.split()[0].startswith("fb-" if page == "server.md" else "moved@")
