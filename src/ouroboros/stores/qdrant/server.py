"""A Qdrant server: reached by a URL, its requests repeated while it restarts, its refusals explained."""

import importlib.util
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import SplitResult, urlsplit

from ouroboros.domain.errors import InvalidInput, MissingExtra, StoreError
from ouroboros.stores.faults import retried

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import UpdateResult

T = TypeVar("T")

PLAIN, ENCRYPTED = "qdrant://", "qdrant+https://"
DEFAULT_NAME = "ouroboros"
OLDEST = (1, 19)
"""The first version that matches prefixes. Writes that insert only, or update only, came with 1.17; an
older server takes no notice of these words and overwrites."""

_PORT = 6333
_SECONDS = 30
"""How long one request may take."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_PASSING = ("refused", "reset", "disconnected", "timed out", "broken pipe", "bad file descriptor")
_PASSING_CODES = (408, 425, 429, 500, 502, 503, 504)


class Unfinished(Exception):
    """The server took a write and has not said that it is done."""


class Server:
    """The server at a URL. `name` is the collection that the URL names."""

    def __init__(self, url: str) -> None:
        parsed, self.name = _parsed(url)
        self.where = f"{parsed.hostname}:{parsed.port or _PORT}/{self.name}"
        if importlib.util.find_spec("qdrant_client") is None:
            raise MissingExtra(
                "A Qdrant store needs qdrant-client, which is not installed here.",
                hint="Install it with: pip install 'ouroboros-learning[qdrant]'",
            )
        from qdrant_client import QdrantClient
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import ApiException

        self._failures = (ApiException, QdrantException, Unfinished)
        self._client = QdrantClient(
            url=f"{'https' if url.startswith(ENCRYPTED) else 'http'}://{_host(parsed)}",
            api_key=os.environ.get("QDRANT_API_KEY") or None,
            timeout=_SECONDS,
            check_compatibility=False,
        )
        try:
            self._require_recent()
        except BaseException:
            self.close()
            raise

    def ask(self, work: "Callable[[QdrantClient], T]") -> T:
        """`work` with a client; it must be such that doing it twice is doing it once."""
        try:
            return retried(lambda: work(self._client), _passes)
        except self._failures as error:
            reason, hint = _explain(error)
            message = f"The Qdrant store at {self.where} failed: {reason}."
            raise StoreError(message, hint=hint) from error

    def write(self, work: "Callable[[QdrantClient], UpdateResult]") -> None:
        """The same for a write, which is on the server's disk and visible afterwards."""
        self.ask(lambda client: _finished(work(client)))

    def close(self) -> None:
        self._client.close()

    def _require_recent(self) -> None:
        version = self.ask(lambda client: client.info()).version
        numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
        if numbers < OLDEST:
            raise StoreError(
                f"The Qdrant server at {self.where} is of version {version}, which overwrites where it"
                f" is told not to.",
                hint=f"Use Qdrant {'.'.join(map(str, OLDEST))} or newer.",
            )


def _finished(result: "UpdateResult") -> None:
    if result.status != "completed":
        raise Unfinished(f"a write is {result.status}")


def _parsed(url: str) -> tuple[SplitResult, str]:
    """The parts of a URL, and its collection; a malformed one is not repeated: it may hold a secret."""
    try:
        parsed = urlsplit(url)
        good = parsed.hostname and parsed.port != 0
    except ValueError:
        parsed, good = urlsplit(""), False
    name = parsed.path.strip("/") or DEFAULT_NAME
    more = parsed.username or parsed.password or parsed.query or parsed.fragment
    if not good or more or not _NAME.fullmatch(name):
        raise InvalidInput(
            "The qdrant URL cannot be read.",
            hint="It looks like: qdrant://HOST:6333/NAME, or qdrant+https://HOST:6333/NAME."
            " A key is taken from QDRANT_API_KEY.",
        )
    return parsed, name


def _host(parsed: SplitResult) -> str:
    host = f"[{parsed.hostname}]" if ":" in (parsed.hostname or "") else parsed.hostname
    return f"{host}:{parsed.port or _PORT}"


def _passes(error: Exception) -> bool:
    """Whether the server may answer if asked once more: it is away, busy, or not done."""
    code = getattr(error, "status_code", None)
    if code is not None:
        return code in _PASSING_CODES
    words = _words(error).lower()
    return isinstance(error, Unfinished) or any(word in words for word in _PASSING)


_HINTS = {
    "401": "Set QDRANT_API_KEY to a key of this server.",
    "403": "Set QDRANT_API_KEY to a key that may write and create collections.",
    "413": "Give fewer examples at once, or raise the server's max_request_size_mb.",
    "507": "Free some space on the server's disk and try again.",
    "name resolution": "Correct the host in the URL.",
    "name or service": "Correct the host in the URL.",
    "refused": "Start the server, or correct its host and port.",
    "certificate": "Check the server's certificate, or the host in the URL.",
    "ssl": "Does the server speak TLS? qdrant:// is without, qdrant+https:// is with it.",
}


def _explain(error: Exception) -> tuple[str, str]:
    reason = _words(error)
    hints = (hint for words, hint in _HINTS.items() if words in reason.lower())
    return reason, next(hints, "Check that it is Qdrant and has room on its disk; then try again.")


def _words(error: Exception) -> str:
    """What the server or the network said, on one line."""
    source = getattr(error, "source", None)
    if source is not None:
        return f"{source}".strip().rstrip(".") or type(source).__name__
    code = getattr(error, "status_code", None)
    if code is None:
        return f"{error}".rstrip(".")
    content = getattr(error, "content", b"").decode(errors="replace")
    said = re.search(r'"error"\s*:\s*"((?:[^"\\]|\\.)*)"', content)
    return f"{code} {getattr(error, 'reason_phrase', '')}" + (f" ({said[1][:200]})" if said else "")
