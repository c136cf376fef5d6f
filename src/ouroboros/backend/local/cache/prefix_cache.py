"""What the base makes of tokens that no adapter acts on: kept, and shared by all that read them.

An adapter that acts on answers only leaves its prompt to the base. The keys and values there are the
same for every adapter, version, epoch and request, so they are computed once. A piece is kept under a
digest of all tokens up to its end: prompts that begin alike share their first pieces, as they share
blocks in vLLM (arXiv 2309.06180). Below the first layer that an adapter adapts, it leaves whole rows to
the base: what that layer is given is kept for the training's other epochs.
"""

import hashlib
from array import array
from collections import OrderedDict
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK_TOKENS = 32
"""Tokens of a piece; the last one of a beginning may be shorter."""

DEFAULT_MAX_BYTES = 256 << 20
"""Bytes kept, unless told otherwise."""

PrefixKV = Float[Tensor, "_ 2 _ _ _"]
"""Keys and values [L, 2, H, P, D] of P tokens, for L layers of H key heads each."""


class PrefixCache:
    """Keys and values of beginnings, within `max_bytes` bytes; those used least recently go first.

    A beginning is kept whole, for those to whom the last bit matters: what is read by itself in one pass
    has the same bits every time. Or it is kept in pieces, which come of passes in any company.
    """

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        return self._nbytes

    def get_prefix(self, tokens: tuple[int, ...], *place: int) -> Tensor | None:
        """All of a beginning [L, 2, H, P, D], as `put_prefix` had it.

        With a place, a token and a layer, what that layer is given from that token on, [T, D].
        """
        found = self._kept.get(name := _name(tokens, place))
        if found is not None:
            self._kept.move_to_end(name)
        return found

    def put_prefix(self, tokens: tuple[int, ...], states: Tensor, *place: int) -> None:
        """Keep what was read by itself, if there is room for it."""
        if states.nbytes <= self.max_bytes:
            self._keep(_name(tokens, place), states)
            self._shrink()

    def get_blocks(self, tokens: tuple[int, ...]) -> Float[Tensor, "L 2 H P D"] | None:
        """As many pieces as are kept of a beginning, from its first token on."""
        found = []
        for name in _names(tokens):
            if name not in self._kept:
                break
            found.append(name)
        for name in reversed(found):  # so that a piece never goes before one that follows it
            self._kept.move_to_end(name)
        return torch.cat([self._kept[name] for name in found], 3) if found else None

    def put_blocks(self, tokens: tuple[int, ...], states: Float[Tensor, "L 2 H P D"]) -> None:
        """Keep a beginning in pieces, if there is room; what is not finite would spoil others."""
        if not tokens or states.nbytes > self.max_bytes or not states.isfinite().all():
            return
        names = _names(tokens)
        for start, name in zip(range(0, len(tokens), BLOCK_TOKENS), names, strict=True):
            if name not in self._kept:
                self._keep(name, states[:, :, :, start : start + BLOCK_TOKENS].clone())
        for name in reversed(names):
            self._kept.move_to_end(name)
        self._shrink()

    def _keep(self, name: bytes, states: Tensor) -> None:
        before = self._kept.pop(name, None)
        self._kept[name] = states
        self._nbytes += states.nbytes - (0 if before is None else before.nbytes)

    def _shrink(self) -> None:
        while self._nbytes > self.max_bytes:
            self._nbytes -= self._kept.popitem(last=False)[1].nbytes


@lru_cache(maxsize=4096)
def _name(tokens: tuple[int, ...], place: tuple[int, ...]) -> bytes:
    """The name of something whole; no piece has one of this length."""
    return f"whole{place}".encode() + hashlib.sha256(array("q", tokens).tobytes()).digest()


@lru_cache(maxsize=4096)
def _names(tokens: tuple[int, ...]) -> tuple[bytes, ...]:
    """A name for each piece, which stands for all tokens up to its end."""
    digest, found = hashlib.sha256(), []
    for start in range(0, len(tokens), BLOCK_TOKENS):
        digest.update(array("q", tokens[start : start + BLOCK_TOKENS]).tobytes())
        found.append(digest.digest())
    return tuple(found)
