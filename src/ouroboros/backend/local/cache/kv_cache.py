"""Keys and values of a running batch, in which rows come and go between the tokens.

All rows end at the same column, so the next token of every row is written in one place, whatever the
rows' lengths and whichever architecture asks: to the model it is a batch padded on the left. A row that
joins is copied in so that it ends there too; when one leaves, the last row takes its place. Nothing is
concatenated from token to token.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from ouroboros.lora.transfer import to_device

KeysValues = tuple[Tensor, Tensor]
"""One layer's keys and values of one row [H, T, D]."""


def _with_room(columns: int) -> int:
    """Columns to make where so many are in use; free ones cost memory, and moving costs time."""
    return columns + max(16, columns // 4)


class KVCache(Cache):
    """The cache that a model's forward pass over one further token per row reads and writes."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._lengths: list[int] = []
        self._end = 0
        self._capacity = (0, 0)

    def __len__(self) -> int:
        """Rows."""
        return len(self._lengths)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each row."""
        return tuple(self._lengths)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for layer in self.by_layer for part in layer.parts)

    def capacity(self, rows: int, longest: int) -> int:
        """For how many tokens there will be room when so many rows have become so long."""
        have = self._capacity[0]
        return (have if rows <= have else max(rows, 2 * have)) * _with_room(longest)

    def add_row(self, row: Sequence[KeysValues]) -> None:
        """Add a row, given its keys and values layer by layer."""
        length = row[0][0].shape[1]
        if not self.layers:
            self.layers = [KVCacheLayer(self, *parts) for parts in row]
        self._ensure_capacity(len(self) + 1, length)
        for layer, keys_values in zip(self.by_layer, row, strict=True):
            for part, states in zip(layer.parts, keys_values, strict=True):
                part[len(self), :, self._end - length : self._end] = states
        self._lengths.append(length)

    def remove_row(self, row: int) -> None:
        """Take a row out; the last row takes its number."""
        last = len(self) - 1
        for layer in self.by_layer:
            for part in layer.parts:
                part[row] = part[last]
                part[last] = 0  # what is masked must be finite, and the next row there may be shorter
        self._lengths[row] = self._lengths[last]
        self._lengths.pop()
        if not self._lengths:
            self.layers, self._end, self._capacity = [], 0, (0, 0)

    def begin_step(self, whole: bool = False) -> tuple[Bool[Tensor, "B C"], Int[Tensor, "B 1"]]:
        """Make room for one token per row; the mask [B, C] of the rows with it, and its positions.

        C are the columns that are in use, or the `whole` of them.
        """
        self._ensure_capacity(len(self), self._end)
        device = self.by_layer[0].parts[0].device
        lengths = to_device(torch.tensor(self._lengths), device)[:, None]
        first, stop = (0, self._capacity[1]) if whole else (self.used_columns.start, self._end + 1)
        columns = torch.arange(first, stop, device=device)
        return (columns >= self._end - lengths) & (columns <= self._end), lengths

    def finish_step(self) -> None:
        """The token that was made room for has been written to every layer."""
        self._end += 1
        self._lengths = [length + 1 for length in self._lengths]

    @property
    def by_layer(self) -> "list[KVCacheLayer]":
        return self.layers  # type: ignore[return-value]

    @property
    def used_columns(self) -> slice:
        """The columns in use."""
        return slice(self._end - max(self._lengths, default=0), self._end)

    def _ensure_capacity(self, rows: int, end: int) -> None:
        """See that so many rows fit, that they end at column `end` or later, and one more follows."""
        have, width = self._capacity
        if rows <= have and end <= self._end < width:
            return
        used = max([end, *self._lengths])
        have = have if rows <= have else max(rows, 2 * have)
        self._capacity = (have, _with_room(used))
        window, self._end = self.used_columns, used
        for layer in self.by_layer:
            layer.reallocate(self._capacity, window, used)


class KVCacheLayer(CacheLayerMixin):
    """One layer's keys and values [rows, H, columns, D]."""

    is_sliding = False

    def __init__(self, owner: KVCache, keys: Float[Tensor, "H T D"], values: Tensor) -> None:
        self._owner = owner
        self.parts = [part.new_zeros(0, part.shape[0], 0, part.shape[2]) for part in (keys, values)]
        self.is_initialized = True

    def reallocate(self, capacity: tuple[int, int], window: slice, end: int) -> None:
        """Into new space, the window's columns now ending at `end`."""
        self.parts = [_moved(part, capacity, window, end) for part in self.parts]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """There is nothing to be lazy about: rows bring their shapes."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write one token per row; the columns in use, with it."""
        window = self._owner.used_columns
        keys, values = (
            whole[:, :, window.start : window.stop + 1]
            for whole in self.append_token(key_states[:, :, 0], value_states[:, :, 0])
        )
        return keys, values

    def append_token(
        self, keys: Float[Tensor, "B H D"], values: Float[Tensor, "B H D"]
    ) -> tuple[Float[Tensor, "B H C D"], Float[Tensor, "B H C D"]]:
        """Write one token per row; the whole of the columns, with it.

        It has no gaps in memory: batched products in bfloat16 copy what has.
        """
        rows, end = len(self._owner), self._owner.used_columns.stop
        for part, states in zip(self.parts, (keys, values), strict=True):
            part[:rows, :, end] = states
        return self.parts[0][:rows], self.parts[1][:rows]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self._owner.used_columns.stop - self._owner.used_columns.start

    def get_max_length(self) -> int:
        return -1


def _moved(part: Tensor, capacity: tuple[int, int], window: slice, end: int) -> Tensor:
    rows, columns = capacity
    moved = part.new_zeros(rows, part.shape[1], columns, part.shape[3])
    width = window.stop - window.start
    moved[: len(part), :, end - width : end] = part[:, :, window]
    return moved
