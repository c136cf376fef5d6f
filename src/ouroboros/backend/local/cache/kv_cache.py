"""Keys and values of a running batch, to which rows are added and from which they leave between tokens.

All rows end at the same column, so one write appends the next token of every row, whatever the rows'
lengths: to the model it is a batch padded on the left. A row that is added is copied in so that it ends
there too; when one is removed, the last row takes its place. No token concatenates anything.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from ouroboros.lora.transfer import to_device

KeysValues = tuple[Tensor, Tensor]
"""One layer's keys and values of one row [H, T, D]."""


def _add_headroom(columns: int) -> int:
    """Columns to allocate where so many are in use. Free ones cost memory, reallocation costs time."""
    return columns + max(16, columns // 4)


class KVCache(Cache):
    """The cache that a model's forward pass over one further token per row reads and writes.

    A step is `begin_step`, one append to each layer, `finish_step`.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._lengths: list[int] = []
        self._end = 0  # the column after the last token of every row
        self._capacity = (0, 0)  # rows and columns that are allocated

    def __len__(self) -> int:
        """Rows in the batch."""
        return len(self._lengths)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each row."""
        return tuple(self._lengths)

    @property
    def nbytes(self) -> int:
        """The bytes of all keys and values, unused columns included."""
        return sum(part.nbytes for layer in self.by_layer for part in layer.parts)

    def capacity(self, rows: int, longest: int) -> int:
        """Tokens that will be allocated when so many rows have grown to `longest` tokens."""
        allocated = self._capacity[0]
        return (allocated if rows <= allocated else max(rows, 2 * allocated)) * _add_headroom(longest)

    def add_row(self, row: Sequence[KeysValues]) -> None:
        """Add a row, given its keys and values layer by layer."""
        length = row[0][0].shape[1]
        if not self.layers:
            self.layers = [KVCacheLayer(self, *parts) for parts in row]
        self._ensure_capacity(len(self) + 1, length)
        for layer, keys_values in zip(self.by_layer, row, strict=True):
            for part, values in zip(layer.parts, keys_values, strict=True):
                part[len(self), :, self._end - length : self._end] = values
        self._lengths.append(length)

    def remove_row(self, row: int) -> None:
        """Remove a row; the last row takes its number."""
        last = len(self) - 1
        for layer in self.by_layer:
            for part in layer.parts:
                part[row] = part[last]
                part[last] = 0  # masked values must be finite, and the next row here may be shorter
        self._lengths[row] = self._lengths[last]
        self._lengths.pop()
        if not self._lengths:
            self.layers, self._end, self._capacity = [], 0, (0, 0)

    def begin_step(self, all_columns: bool = False) -> tuple[Bool[Tensor, "B C"], Int[Tensor, "B 1"]]:
        """Make room for one token per row. Returns the mask with that token, and its positions.

        The mask covers the C columns in use, or `all_columns` that are allocated.
        """
        self._ensure_capacity(len(self), self._end)
        device = self.by_layer[0].parts[0].device
        lengths = to_device(torch.tensor(self._lengths), device)[:, None]
        first, stop = (0, self._capacity[1]) if all_columns else (self.used_columns.start, self._end + 1)
        columns = torch.arange(first, stop, device=device)
        return (columns >= self._end - lengths) & (columns <= self._end), lengths

    def finish_step(self) -> None:
        """Count the token that every layer has appended."""
        self._end += 1
        self._lengths = [length + 1 for length in self._lengths]

    @property
    def by_layer(self) -> "list[KVCacheLayer]":
        """The cached keys and values of each layer, in the layers' order."""
        return self.layers  # type: ignore[return-value]

    @property
    def used_columns(self) -> slice:
        """The columns in use."""
        return slice(self._end - max(self._lengths, default=0), self._end)

    def _ensure_capacity(self, rows: int, end: int) -> None:
        """Make room for so many rows that end at column `end` or later, and one column after it."""
        allocated, width = self._capacity
        if rows <= allocated and end <= self._end < width:
            return
        # Rows double, so that adding them stays cheap. Columns shrink to the longest row, plus headroom.
        used = max([end, *self._lengths])
        allocated = allocated if rows <= allocated else max(rows, 2 * allocated)
        self._capacity = (allocated, _add_headroom(used))
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
        """Copy the window's columns into new tensors, in which they end at `end`."""
        self.parts = [_reallocate(part, capacity, window, end) for part in self.parts]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to initialise later: the first row brings the shapes."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append one token per row. Returns the columns in use, with it."""
        window = self._owner.used_columns
        keys, values = (
            whole[:, :, window.start : window.stop + 1]
            for whole in self.append_token(key_states[:, :, 0], value_states[:, :, 0])
        )
        return keys, values

    def append_token(
        self, keys: Float[Tensor, "B H D"], values: Float[Tensor, "B H D"]
    ) -> tuple[Float[Tensor, "B H C D"], Float[Tensor, "B H C D"]]:
        """Append one token per row. Returns all allocated columns C, the unused ones too.

        They have no gaps in memory: batched products in bfloat16 copy tensors that have.
        """
        rows, end = len(self._owner), self._owner.used_columns.stop
        for part, token in zip(self.parts, (keys, values), strict=True):
            part[:rows, :, end] = token
        return self.parts[0][:rows], self.parts[1][:rows]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Returns how many columns a mask for `query_length` new tokens covers, and its offset."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Returns how many columns are in use."""
        return self._owner.used_columns.stop - self._owner.used_columns.start

    def get_max_length(self) -> int:
        """Returns -1: the cache grows without a limit of its own."""
        return -1


def _reallocate(part: Tensor, capacity: tuple[int, int], window: slice, end: int) -> Tensor:
    rows, columns = capacity
    copy = part.new_zeros(rows, part.shape[1], columns, part.shape[3])
    width = window.stop - window.start
    copy[: len(part), :, end - width : end] = part[:, :, window]
    return copy
