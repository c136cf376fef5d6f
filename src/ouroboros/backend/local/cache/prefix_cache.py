"""Keys, values and hidden states of the base for tokens that no adapter acts on, cached and shared.

An adapter that acts on answers only leaves its prompt to the base. The keys and values there are the
same for every adapter, version, epoch and request, so they are computed once. They are cached in blocks,
each under a digest of all tokens up to its end: prompts with a common beginning share their first
blocks, as in vLLM (arXiv 2309.06180). Below the first layer that an adapter adapts, whole rows belong to
the base: that layer's input is cached for the training's other epochs.
"""

import hashlib
from array import array
from collections import OrderedDict
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK_TOKENS = 32
"""Tokens of a block; the last one of a prefix may be shorter."""

DEFAULT_MAX_BYTES = 256 << 20
"""Bytes that a cache holds unless its owner says otherwise."""

PrefixKV = Float[Tensor, "_ 2 _ _ _"]
"""Keys and values [L, 2, H, P, D] of P tokens, for L layers of H key heads each."""


class PrefixCache:
    """Keys and values of prefixes, within `max_bytes`; the least recently used go first.

    A prefix is cached whole where the last bit matters: it was computed in a pass of its own, which has
    the same bits every time. Otherwise it is cached in blocks, which may come from any pass.
    """

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[bytes, Tensor] = OrderedDict()
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes that are cached now."""
        return self._nbytes

    def get_prefix(self, tokens: tuple[int, ...]) -> Float[Tensor, "L 2 H P D"] | None:
        """The keys and values of all these tokens, as `put_prefix` stored them."""
        return self._get(_whole_key(tokens, ()))

    def put_prefix(self, tokens: tuple[int, ...], keys_values: Float[Tensor, "L 2 H P D"]) -> None:
        """Store a prefix that was computed in a pass of its own, if it fits."""
        self._put(_whole_key(tokens, ()), keys_values)

    def get_hidden(self, tokens: tuple[int, ...], start: int, layer: int) -> Float[Tensor, "T D"] | None:
        """The input of a layer from token `start` on, as `put_hidden` stored it."""
        return self._get(_whole_key(tokens, (start, layer)))

    def put_hidden(
        self, tokens: tuple[int, ...], hidden: Float[Tensor, "T D"], start: int, layer: int
    ) -> None:
        """Store the input of a layer from token `start` on, if it fits."""
        self._put(_whole_key(tokens, (start, layer)), hidden)

    def get_blocks(self, tokens: tuple[int, ...]) -> Float[Tensor, "L 2 H P D"] | None:
        """The keys and values of as many blocks as are cached without a gap from the first token on."""
        cached = []
        for key in _block_keys(tokens):
            if key not in self._entries:
                break
            cached.append(key)
        self._touch_blocks(cached)
        return torch.cat([self._entries[key] for key in cached], 3) if cached else None

    def put_blocks(self, tokens: tuple[int, ...], keys_values: Float[Tensor, "L 2 H P D"]) -> None:
        """Store a prefix in blocks, if it fits and is finite: other values would spoil requests."""
        if not tokens or keys_values.nbytes > self.max_bytes or not keys_values.isfinite().all():
            return
        keys = _block_keys(tokens)
        for start, key in zip(range(0, len(tokens), BLOCK_TOKENS), keys, strict=True):
            if key not in self._entries:
                self._store(key, keys_values[:, :, :, start : start + BLOCK_TOKENS].clone())
        self._touch_blocks(keys)
        self._evict()

    def _get(self, key: bytes) -> Tensor | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def _put(self, key: bytes, entry: Tensor) -> None:
        if entry.nbytes <= self.max_bytes:
            self._store(key, entry)
            self._evict()

    def _touch_blocks(self, keys: "list[bytes] | tuple[bytes, ...]") -> None:
        for key in reversed(keys):  # a block must not be evicted before those that follow it
            self._entries.move_to_end(key)

    def _store(self, key: bytes, entry: Tensor) -> None:
        previous = self._entries.pop(key, None)
        self._entries[key] = entry
        self._nbytes += entry.nbytes - (0 if previous is None else previous.nbytes)

    def _evict(self) -> None:
        while self._nbytes > self.max_bytes:
            self._nbytes -= self._entries.popitem(last=False)[1].nbytes


@lru_cache(maxsize=4096)
def _whole_key(tokens: tuple[int, ...], location: tuple[int, ...]) -> bytes:
    """The key of a whole prefix, or of hidden states at a location. It is longer than a block's."""
    return f"whole{location}".encode() + hashlib.sha256(array("q", tokens).tobytes()).digest()


@lru_cache(maxsize=4096)
def _block_keys(tokens: tuple[int, ...]) -> tuple[bytes, ...]:
    """A key for each block, which stands for all tokens up to its end."""
    digest, keys = hashlib.sha256(), []
    for start in range(0, len(tokens), BLOCK_TOKENS):
        digest.update(array("q", tokens[start : start + BLOCK_TOKENS]).tobytes())
        keys.append(digest.digest())
    return tuple(keys)
