"""The page's HTML and files: every view's URL, a path prefix, caching, and what the browser may load."""

import gzip
import re
from importlib.resources import files

import httpx2
import pytest

from ouroboros.server.keys import create_key
from ouroboros.testing.backend import FakeBackend
from tests.server.running import run_server

STATIC = files("ouroboros.server.page").joinpath("static")
VIEWS = (
    "/",
    "/adapters",
    "/adapters/shop%2Feu",
    "/adapters/tickets/compare/3/5",
    "/playground",
    "/train",
    "/train/ftjob-1",
    "/activity",
    "/feedback",
)


@pytest.fixture(scope="module")
def http():
    with (
        run_server(FakeBackend) as server,
        httpx2.Client(base_url=server.url, timeout=60) as client,
    ):
        yield client


def test_every_view_has_its_url(http):
    pages = {http.get(path).text for path in VIEWS}
    assert len(pages) == 1
    (html,) = pages
    assert '<base href="/">' in html
    assert http.get("/nothing").status_code == 404


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs_inline(http):
    page = http.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert re.findall(r"https?://", page.text) == []
    assert re.search(r"<script(?![^>]*\bsrc=)", page.text) is None
    assert " style=" not in page.text
    for file in STATIC.iterdir():
        text = file.read_text()
        hosts = set(re.findall(r"https?://([^/\"']+)", text))
        assert hosts <= {"www.w3.org"}, file.name  # the names of SVG's namespace


def test_no_script_turns_text_into_html():
    scripts = [file for file in STATIC.iterdir() if file.name.endswith(".js")]
    assert len(scripts) > 8
    for file in scripts:
        words = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function"
        assert re.search(words, file.read_text()) is None, file.name


def test_files_may_be_kept_for_ever_and_the_page_is_asked_for_anew(http):
    page = http.get("/")
    assert page.headers["cache-control"] == "no-cache"
    unchanged = http.get("/", headers={"if-none-match": page.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    script = re.search(r'src="(page/[^"]+/app\.js)"', page.text)
    assert script is not None
    asset = http.get(f"/{script[1]}")
    assert "immutable" in asset.headers["cache-control"]
    assert asset.headers["content-type"].startswith("text/javascript")
    assert asset.content == STATIC.joinpath("app.js").read_bytes()
    stale = http.get("/page/0123456789abcdef/app.js")
    assert (stale.status_code, stale.headers["cache-control"]) == (200, "no-store")
    for name in ("nothing.js", "..%2Fshell.py", "app.js%00"):
        assert http.get(f"/page/x/{name}").status_code == 404


def test_the_first_view_is_small(http):
    page = http.get("/")
    names = [
        "app.js",
        "api.js",
        "dom.js",
        "parts.js",
        "adapters.js",
        "chart.js",
        "style.css",
        "icon.svg",
    ]
    digest = re.findall(r"page/(\w+)/app\.js", page.text)[0]
    size = len(page.content)
    for name in names:
        with http.stream("GET", f"/page/{digest}/{name}") as response:
            assert response.headers["content-encoding"] == "gzip"
            packed = b"".join(response.iter_raw())
        assert gzip.decompress(packed) == STATIC.joinpath(name).read_bytes()
        size += len(packed)
    assert size < 150_000


def test_it_is_served_under_a_path_prefix_too():
    with (
        run_server(FakeBackend, root_path="/ouro") as server,
        httpx2.Client(base_url=server.url, timeout=60) as http,
    ):
        # A proxy may strip the prefix or leave it.
        for path in ("/playground", "/ouro/playground"):
            assert '<base href="/ouro/">' in http.get(path).text
        assert http.get("/ouro/v1/overview").json()["data"] == []
        files = {"file": ("rows.jsonl", b'{"prompt": "a", "completion": "b"}')}
        assert http.post("/ouro/v1/training/preview", files=files).json()["examples"] == 1


def test_a_browser_signs_in_with_a_key_and_out_again():
    with (
        run_server(FakeBackend, keyless=False) as server,
        httpx2.Client(base_url=server.url, timeout=60) as http,
    ):
        key, _ = create_key(server.service.records, "ann", scopes=("read",))
        assert http.get("/").status_code == 200  # the page itself shows nothing
        assert http.get("/v1/session").status_code == 401
        assert http.post("/v1/session", json={"key": "ouro_wrong"}).status_code == 401
        signed = http.post("/v1/session", json={"key": key})
        cookie = signed.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert signed.json()["scopes"] == ["read"]
        assert http.get("/v1/session").json()["keyless"] is False
        assert http.get("/v1/overview").status_code == 200
        # The cookie counts for the page's own requests only, and has no more scopes than the key.
        foreign = http.get("/v1/overview", headers={"sec-fetch-site": "cross-site"})
        assert foreign.status_code == 401
        assert http.post("/v1/adapters", json={"name": "x"}).status_code == 403
        assert http.get("/v1/keys").status_code == 403
        http.delete("/v1/session")
        assert http.get("/v1/overview").status_code == 401
