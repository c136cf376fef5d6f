"""Keys: who may call, what they may do, and which adapters they may see."""

import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any

from ouroboros.domain.checks import suggest_nearest
from ouroboros.domain.errors import InvalidInput, NotFound
from ouroboros.server.errors import RequestError
from ouroboros.server.records import ServiceRecords

SCOPES = ("read", "generate", "feedback", "train", "admin")
PREFIX = "ouro_"


@dataclass(frozen=True)
class Caller:
    """Who sent a request: a key of a tenant, or whoever is on this machine where there are no keys."""

    key: str
    tenant: str
    scopes: tuple[str, ...] = SCOPES
    adapters: tuple[str, ...] = ("*",)

    def sees(self, adapter: str) -> bool:
        """Whether one of the key's patterns matches an adapter's name."""
        return any(fnmatchcase(adapter, pattern) for pattern in self.adapters)

    def require_sight(self, adapter: str) -> None:
        """Raise `NotFound`, as for an adapter that does not exist, unless the caller may see it."""
        if not self.sees(adapter):
            raise NotFound(
                f"There is no adapter {adapter!r}.", hint="See those there are with: ouroboros list"
            )

    def require(self, scope: str) -> None:
        """Raise 403, naming the scope, unless the key has it."""
        if scope not in self.scopes:
            raise RequestError(
                403,
                f"This key lacks the scope {scope!r}. Create one that has it: ouroboros keys create",
                code="missing_scope",
            )


LOCAL = Caller("local", "")
"""The caller of a server without keys, which answers on 127.0.0.1 only."""


def create_key(
    records: ServiceRecords,
    name: str,
    *,
    tenant: str = "",
    scopes: tuple[str, ...] = SCOPES[:4],
    adapters: tuple[str, ...] = ("*",),
    days: float | None = None,
) -> tuple[str, Mapping[str, Any]]:
    """A new key and its record. Only the key's digest is stored: the key itself is shown once."""
    for scope in scopes:
        if scope not in SCOPES:
            raise InvalidInput(f"There is no scope {scope!r}.", hint=suggest_nearest(scope, SCOPES))
    secret = PREFIX + secrets.token_urlsafe(32)
    now = time.time()
    record = {
        "id": f"key-{secrets.token_hex(6)}",
        "digest": _digest(secret),
        "prefix": secret[:10],
        "name": name,
        "tenant": tenant,
        "scopes": list(scopes),
        "adapters": list(adapters),
        "created_at": now,
        "expires_at": None if days is None else now + days * 86400,
    }
    return secret, records.keys.create(record["digest"], record)


def find_caller(records: ServiceRecords, authorization: str | None) -> Caller:
    """The caller of an `Authorization: Bearer` header. Raises 401 for a key that does not count."""
    kind, _, secret = (authorization or "").partition(" ")
    if kind.lower() != "bearer" or not secret:
        raise RequestError(
            401, "Send a key as the header Authorization: Bearer ouro_...", code="missing_key"
        )
    digest = _digest(secret.strip())
    record = records.keys.find(digest)
    if record is None or not hmac.compare_digest(record["digest"], digest):
        raise RequestError(401, "The key is not known or was revoked.", code="invalid_key")
    if record["expires_at"] is not None and record["expires_at"] <= time.time():
        raise RequestError(401, "The key has expired. Create a new one.", code="expired_key")
    return Caller(record["id"], record["tenant"], tuple(record["scopes"]), tuple(record["adapters"]))


def revoke_key(records: ServiceRecords, id: str) -> Mapping[str, Any]:
    """Remove a key by its id. Raises `NotFound`."""
    for record in records.keys.all():
        if record["id"] == id:
            records.keys.delete(record["digest"])
            return record
    raise NotFound(f"There is no key {id!r}.", hint="See those there are with: ouroboros keys list")


def _digest(secret: str) -> str:
    """A key has 256 random bits, so that a plain digest cannot be turned back."""
    return sha256(secret.encode(errors="replace")).hexdigest()
