"""A server that goes away and comes back while a page is open, and one with keys."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

from ouroboros.server.keys import create_key
from ouroboros.testing.backend import FakeBackend
from tests.server.running import run_server


def start_server(folder: Path, tiny: Path, port: int) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OUROBOROS_")}
    environment |= {"OUROBOROS_MODEL": str(tiny)}
    command = [sys.executable, "-m", "ouroboros", "serve", "--json", "--port", str(port)]
    program = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert program.stdout is not None
    program.stdout.readline()  # it listens
    return program


def run_program(folder: Path, tiny: Path, *arguments: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OUROBOROS_")}
    command = [sys.executable, "-m", "ouroboros", *arguments]
    environment |= {"OUROBOROS_MODEL": str(tiny)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def test_a_lost_connection_is_shown_and_nothing_is_missed(tmp_path, tiny, port, open_page):
    program = start_server(tmp_path, tiny, port)
    try:
        expected = ("ERR_CONNECTION", "ERR_INCOMPLETE", "503", "cannot be reached")
        page = open_page(f"http://127.0.0.1:{port}/adapters", expected=expected)
        expect(page.get_by_text("No adapters yet")).to_be_visible()
        program.send_signal(signal.SIGTERM)
        program.communicate(timeout=60)
        expect(page.get_by_role("alert")).to_contain_text("The connection to the server is lost")
        # What happens meanwhile, and by another program, is seen once the server is there again.
        run_program(tmp_path, tiny, "create", "tickets")
        program = start_server(tmp_path, tiny, port)
        expect(page.get_by_role("link", name="tickets", exact=True)).to_be_visible()
        expect(page.get_by_role("alert")).to_be_hidden()
        expect(page.get_by_text("Connected", exact=True)).to_be_visible()
    finally:
        program.kill()
        program.communicate()


def test_a_key_is_asked_for_once(open_page):
    with run_server(FakeBackend, keyless=False) as server:
        key, _ = create_key(server.service.records, "ann", scopes=("read",))
        page = open_page(f"{server.url}/adapters", expected=("401", "ERR_"))
        page.get_by_label("Key").fill("ouro_wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_text("not known or was revoked")).to_be_visible()
        page.get_by_label("Key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_text("No adapters yet")).to_be_visible()
        # A key that may only read is offered nothing else.
        expect(page.get_by_role("button", name="New adapter")).to_have_count(0)
        page.reload()
        expect(page.get_by_text("No adapters yet")).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_it_works_under_a_path_prefix(open_page):
    with run_server(FakeBackend, root_path="/ouro") as server:
        page = open_page(f"{server.url}/ouro/", expected=("ERR_",))
        expect(page.get_by_text("No adapters yet")).to_be_visible()
        page.get_by_role("link", name="Playground").click()
        expect(page.get_by_label("Message")).to_be_visible()
        assert page.url == f"{server.url}/ouro/playground"
