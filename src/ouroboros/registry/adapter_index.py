"""Reading all heads quickly, without decoding whole adapter records."""

import json

from ouroboros.domain.base_model import Fingerprint
from ouroboros.domain.names import AdapterId
from ouroboros.registry.codec import decode
from ouroboros.registry.fencing import ADAPTERS
from ouroboros.registry.paging import read_records
from ouroboros.stores.metadata.base import Json, MetadataStore


def read_heads(metadata: MetadataStore, base: Fingerprint) -> dict[AdapterId, int]:
    """Return the head of every adapter that was made for `base` and serves a version."""
    fits = _FingerprintMatcher(base)
    return {
        AdapterId(record.key): record.value["head"]
        for record in read_records(metadata, ADAPTERS)
        if record.value.get("head") and fits(record.value["base"])
    }


class _FingerprintMatcher:
    """Compares stored fingerprints with that of a base; decodes each distinct one once."""

    def __init__(self, base: Fingerprint) -> None:
        self._base = base
        self._known: dict[str, bool] = {}

    def __call__(self, stored: Json) -> bool:
        text = json.dumps(stored)
        if text not in self._known:
            self._known[text] = decode(Fingerprint, stored, "an adapter's base") == self._base
        return self._known[text]
