"""Requests that may come twice: the client repeats what it got no answer to."""

import time
from contextlib import suppress
from hashlib import sha256

from ouroboros.domain.errors import Conflict
from ouroboros.server.errors import RequestError
from ouroboros.server.records import ServiceRecords, Value

REPEAT_SECONDS = 60.0
"""Without an `Idempotency-Key`, an equal request of the same tenant within this time is a repetition.

OpenAI's client sends no key, and gives up within half a minute.
"""


def claim_id(
    records: ServiceRecords, tenant: str, path: str, key: str | None, body: str, id: str
) -> str:
    """The id of what this request makes: `id`, or that of the request which it repeats.

    The claim is durable before anything is made, so that a repetition after a crash finds it. Raises
    409 for a key that came with another body.
    """
    digest = sha256(body.encode(errors="replace")).hexdigest()
    name = sha256(f"{tenant}\0{path}\0{key or digest}".encode(errors="replace")).hexdigest()
    fresh = {"tenant": tenant, "digest": digest, "id": id, "at": time.time()}
    with suppress(Conflict):
        return records.requests.create(name, fresh)["id"]

    def choose(earlier: Value) -> Value:
        if key is not None or time.time() - earlier["at"] < REPEAT_SECONDS:
            return earlier
        return fresh

    claim = records.requests.change(name, choose)
    if claim["digest"] != digest:
        raise RequestError(
            409,
            "This Idempotency-Key came with another request before. Use a new one.",
            code="idempotency_key_reused",
        )
    return claim["id"]
