"""The connection to a Qdrant server: retries while it restarts, and errors with a reason and a hint."""

import importlib.util
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import SplitResult, urlsplit

from ouroboros.domain.errors import InvalidInput, MissingExtra, StoreError
from ouroboros.stores.faults import retry

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import UpdateResult

T = TypeVar("T")

PLAIN, ENCRYPTED = "qdrant://", "qdrant+https://"
DEFAULT_COLLECTION = "ouroboros"
OLDEST_VERSION = (1, 19)
"""The first version that matches prefixes. Insert-only and update-only writes came with 1.17; an older
server ignores these modes and overwrites."""

_DEFAULT_PORT = 6333
_TIMEOUT_SECONDS = 30
"""Timeout of one request."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_TRANSIENT_PHRASES = (
    "refused",
    "reset",
    "disconnected",
    "timed out",
    "broken pipe",
    "bad file descriptor",
)
_TRANSIENT_CODES = (408, 425, 429, 500, 502, 503, 504)


class WriteNotCompleted(Exception):
    """The server accepted a write and did not report its completion."""


class QdrantServer:
    """A connection to the server at a URL. `name` is the collection that the URL names."""

    def __init__(self, url: str) -> None:
        parsed, self.name = _parse_url(url)
        self.location = f"{parsed.hostname}:{parsed.port or _DEFAULT_PORT}/{self.name}"
        if importlib.util.find_spec("qdrant_client") is None:
            raise MissingExtra(
                "A Qdrant store needs qdrant-client, which is not installed here.",
                hint="Install it with: pip install 'ouroboros-learning[qdrant]'",
            )
        from qdrant_client import QdrantClient
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import ApiException

        self._failures = (ApiException, QdrantException, WriteNotCompleted)
        self._client = QdrantClient(
            url=f"{'https' if url.startswith(ENCRYPTED) else 'http'}://{_host_and_port(parsed)}",
            api_key=os.environ.get("QDRANT_API_KEY") or None,
            timeout=_TIMEOUT_SECONDS,
            check_compatibility=False,
        )
        try:
            self._check_version()
        except BaseException:
            self.close()
            raise

    def request(self, work: "Callable[[QdrantClient], T]") -> T:
        """Call `work` with the client. It must be idempotent, because it is retried.

        Raises `StoreError` if the server cannot be reached or refuses the request.
        """
        try:
            return retry(lambda: work(self._client), _is_transient)
        except self._failures as error:
            reason, hint = _explain_error(error)
            message = f"The Qdrant store at {self.location} failed: {reason}."
            raise StoreError(message, hint=hint) from error

    def write(self, work: "Callable[[QdrantClient], UpdateResult]") -> None:
        """The same for a write, which is on the server's disk and visible when this returns."""
        self.request(lambda client: _require_completed(work(client)))

    def close(self) -> None:
        self._client.close()

    def _check_version(self) -> None:
        version = self.request(lambda client: client.info()).version
        numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
        if numbers < OLDEST_VERSION:
            raise StoreError(
                f"The Qdrant server at {self.location} has version {version}, which ignores"
                " conditions and overwrites.",
                hint=f"Use Qdrant {'.'.join(map(str, OLDEST_VERSION))} or newer.",
            )


def _require_completed(result: "UpdateResult") -> None:
    if result.status != "completed":
        raise WriteNotCompleted(f"a write is {result.status}")


def _parse_url(url: str) -> tuple[SplitResult, str]:
    """The parts of a URL, and its collection.

    Errors do not repeat the URL, which may contain a secret.
    """
    try:
        parsed = urlsplit(url)
        is_valid = parsed.hostname and parsed.port != 0
    except ValueError:
        parsed, is_valid = urlsplit(""), False
    name = parsed.path.strip("/") or DEFAULT_COLLECTION
    extras = parsed.username or parsed.password or parsed.query or parsed.fragment
    if not is_valid or extras or not _NAME.fullmatch(name):
        raise InvalidInput(
            "The qdrant URL cannot be read.",
            hint="It looks like: qdrant://HOST:6333/NAME, or qdrant+https://HOST:6333/NAME."
            " The API key comes from QDRANT_API_KEY.",
        )
    return parsed, name


def _host_and_port(parsed: SplitResult) -> str:
    host = f"[{parsed.hostname}]" if ":" in (parsed.hostname or "") else parsed.hostname
    return f"{host}:{parsed.port or _DEFAULT_PORT}"


def _is_transient(error: Exception) -> bool:
    """Whether a retry may succeed: the server is unreachable, busy or not done."""
    code = getattr(error, "status_code", None)
    if code is not None:
        return code in _TRANSIENT_CODES
    description = _describe_error(error).lower()
    return isinstance(error, WriteNotCompleted) or any(
        word in description for word in _TRANSIENT_PHRASES
    )


_HINTS = {
    "401": "Set QDRANT_API_KEY to a key for this server.",
    "403": "Set QDRANT_API_KEY to a key that may write and create collections.",
    "413": "Give fewer examples at once, or raise the server's max_request_size_mb.",
    "507": "Free some space on the server's disk and try again.",
    "name resolution": "Correct the host in the URL.",
    "name or service": "Correct the host in the URL.",
    "refused": "Start the server, or correct its host and port.",
    "certificate": "Check the server's certificate, or the host in the URL.",
    "ssl": "Check that the server uses TLS: qdrant:// is without it, qdrant+https:// with it.",
}


def _explain_error(error: Exception) -> tuple[str, str]:
    reason = _describe_error(error)
    hints = (hint for phrase, hint in _HINTS.items() if phrase in reason.lower())
    return reason, next(hints, "Check that it is a Qdrant server with free disk space, then try again.")


def _describe_error(error: Exception) -> str:
    """The error of the server or the network, on one line."""
    source = getattr(error, "source", None)
    if source is not None:
        return f"{source}".strip().rstrip(".") or type(source).__name__
    code = getattr(error, "status_code", None)
    if code is None:
        return f"{error}".rstrip(".")
    content = getattr(error, "content", b"").decode(errors="replace")
    message = re.search(r'"error"\s*:\s*"((?:[^"\\]|\\.)*)"', content)
    return f"{code} {getattr(error, 'reason_phrase', '')}" + (
        f" ({message[1][:200]})" if message else ""
    )
