"""The page's HTML and its static files, as they are written: nothing is built.

Every view's URL answers with the same few lines of HTML. The files stand under a digest of their
content, so that a browser may keep them for ever; a new release has another digest.
"""

import gzip
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ouroboros.server.errors import RequestError

router = APIRouter(include_in_schema=False)

TYPES = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'self'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""No inline script or style, no other host, and no text that becomes HTML."""

HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}

_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<base href="{base}">
<title>Ouroboros</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="{assets}/icon.svg">
<link rel="stylesheet" href="{assets}/style.css">
<link rel="modulepreload" href="{assets}/api.js">
<link rel="modulepreload" href="{assets}/dom.js">
<link rel="modulepreload" href="{assets}/parts.js">
<script type="module" src="{assets}/app.js"></script>
</head>
<body>
<noscript>This page needs JavaScript. The same information is served as JSON under v1/.</noscript>
</body>
</html>
"""


@router.get("/")
@router.get("/adapters")
@router.get("/adapters/{rest:path}")
@router.get("/playground")
@router.get("/train")
@router.get("/train/{rest:path}")
@router.get("/activity")
@router.get("/feedback")
async def get_page(request: Request) -> Response:
    """The page at the URL of any of its views. What the view shows is read from the JSON routes."""
    base = escape(request.scope.get("root_path", "").rstrip("/") + "/", quote=True)
    html = _HTML.format(base=base, assets=f"page/{_assets_digest()}").encode()
    headers = {**HEADERS, "cache-control": "no-cache", "etag": f'"{sha256(html).hexdigest()[:20]}"'}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    return Response(html, media_type="text/html", headers=headers)


@router.get("/page/{digest}/{name}")
async def get_asset(digest: str, name: str, request: Request) -> Response:
    """A static file of the page, compressed where the browser takes it."""
    asset = _read_assets().get(name)
    if asset is None:
        raise RequestError(404, f"The page has no file {name[:80]!r}.", code="not_found")
    plain, packed = asset
    # A page of an earlier release asks for an earlier digest: it gets today's file, and may not keep it.
    current = digest == _assets_digest()
    headers = {
        **HEADERS,
        "cache-control": "public, max-age=31536000, immutable" if current else "no-store",
        "vary": "accept-encoding",
    }
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
        plain = packed
    return Response(plain, media_type=TYPES[name.rpartition(".")[2]], headers=headers)


@cache
def _read_assets() -> dict[str, tuple[bytes, bytes]]:
    """Every static file by name, as written and compressed."""
    folder = files("ouroboros.server.page").joinpath("static")
    contents = {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if file.name.rpartition(".")[2] in TYPES
    }
    return {name: (data, gzip.compress(data, mtime=0)) for name, data in contents.items()}


@cache
def _assets_digest() -> str:
    digest = sha256()
    for name, (data, _) in sorted(_read_assets().items()):
        digest.update(f"{name} {len(data)} ".encode() + data)
    return digest.hexdigest()[:16]
