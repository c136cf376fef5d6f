"""A real browser for the page's tests: Debian's Chromium, and axe-core, which checks accessibility.

`make browser` installs both. Where one is absent its tests are skipped, saying so. Every page fails its
test if the browser reports an error, refuses something for the page's policy, or asks another host.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

AXE = Path(__file__).parents[3] / ".setup/npm/node_modules/axe-core/axe.min.js"
expect.set_options(timeout=60_000)

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Ends with its module: while Playwright runs, no other test can run an event loop."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("There is no Chromium: make browser, or apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens pages, and checks at the end that no browser complained and no other host was asked."""
    complaints: list[str] = []
    contexts = []

    def open_page(
        url: str, *, width: int = 1280, expected: tuple[str, ...] = (), **options: Any
    ) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        host = urlsplit(url).netloc

        def note_message(text: str) -> None:
            if not any(part in text for part in expected):
                complaints.append(text)

        page.on("console", lambda m: note_message(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: note_message(str(error)))
        page.on("request", lambda r: None if urlsplit(r.url).netloc == host else note_message(r.url))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="session")
def axe() -> str:
    if not AXE.exists():
        pytest.skip("There is no axe-core: make browser")
    return AXE.read_text()
