"""The adapters of a running batch, in which rows come and go between the tokens.

Every slot holds one adapter's factors, stacked with the others' per layer, scale worked in, and zeros up
to the largest rank; the base needs none. The stacks stay from step to step: a row that joins with an
adapter already there costs nothing, a new adapter is copied into one slot.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ouroboros.lora.bank import BankedAdapter, Factors


class Slots:
    """Which adapter answers each row of a batch [B, 1, I]; a route that is changed, not made anew.

    Rows of one adapter are multiplied together, adapters side by side in one batched product: [S, n, I]
    with n the most rows that any adapter has. No row ever meets another adapter's factors, so a row that
    is not finite spoils no other.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = device
        self._adapters: list[BankedAdapter] = []
        self._stacks: dict[str, Factors] = {}
        self._rows: tuple[BankedAdapter | None, ...] = ()
        self._index: Int[Tensor, "S n"] | None = None
        self._adapted: Int[Tensor, "K"] | None = None
        self._places: Int[Tensor, "K"] | None = None

    def __len__(self) -> int:
        """Slots in use."""
        return len(self._adapters)

    def arrange(self, rows: Sequence[BankedAdapter | None]) -> None:
        """Row i is answered by rows[i] from now on."""
        if tuple(rows) == self._rows:
            return
        self._rows = tuple(rows)
        before, self._adapters = self._adapters, _placed(self._adapters, rows)
        for slot, adapter in enumerate(self._adapters):
            if slot >= len(before) or before[slot] is not adapter:
                self._copy(slot, adapter)
        if not self._adapters:
            self._stacks.clear()
        self._point()

    def adapt(
        self, path: str, x: Float[Tensor, "*B I"], y: Float[Tensor, "*B O"]
    ) -> Float[Tensor, "*B O"]:
        """Add to the base layer's output each row's adapter."""
        stack = self._stacks.get(path)
        if stack is None or self._adapted is None:
            return y
        used = len(self._adapters)
        a, b = stack[0][:used], stack[1][:used]
        flat_x, flat_y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        if self._index is None:
            return torch.addmm(flat_y, flat_x @ a[0].T, b[0]).view(y.shape)
        low = torch.bmm(flat_x[self._index], a.transpose(1, 2))
        out = torch.bmm(low, b).flatten(0, 1)
        return flat_y.index_add(0, self._adapted, out[self._places]).view(y.shape)

    def _point(self) -> None:
        """Find the rows of each slot. No index where one adapter has them all."""
        self._index = self._adapted = self._places = None
        of_slot: list[list[int]] = [[] for _ in self._adapters]
        at = {id(adapter): slot for slot, adapter in enumerate(self._adapters)}
        for row, adapter in enumerate(self._rows):
            if adapter is not None:
                of_slot[at[id(adapter)]].append(row)
        if not of_slot:
            return
        width = max(map(len, of_slot))
        self._adapted = self._tensor([row for rows in of_slot for row in rows])
        places = (slot * width + i for slot, rows in enumerate(of_slot) for i in range(len(rows)))
        self._places = self._tensor(list(places))
        if len(of_slot) > 1 or None in self._rows:
            padded = [rows + rows[:1] * (width - len(rows)) for rows in of_slot]
            self._index = self._tensor(padded)

    def _tensor(self, values: list) -> Int[Tensor, "..."]:
        return torch.tensor(values, dtype=torch.long, device=self._device)

    def _copy(self, slot: int, adapter: BankedAdapter) -> None:
        """Write an adapter into a slot, zeros where it adapts nothing."""
        for path in adapter.paths:
            if path not in self._stacks:
                a, b = (f.new_empty(0, 0, f.shape[1]) for f in adapter.factors(path) or ())
                self._stacks[path] = a, b
        for path, stack in self._stacks.items():
            rank, factors = adapter.rank(path), adapter.factors(path)
            a, b = self._stacks[path] = _fitting(stack, slot + 1, rank)
            a[slot], b[slot] = 0.0, 0.0
            if factors is not None:
                a[slot, :rank] = factors[0].detach()
                b[slot, :rank] = factors[1].detach() * adapter.scale(path)


def _placed(
    before: Sequence[BankedAdapter], rows: Sequence[BankedAdapter | None]
) -> list[BankedAdapter]:
    """The wanted adapters: those that were there keep their slots, as far as no gap stays."""
    wanted = {id(a): a for a in rows if a is not None}
    there = {id(a) for a in before}
    new = [a for key, a in wanted.items() if key not in there]
    placed: list[BankedAdapter | None] = [a if id(a) in wanted else None for a in before]
    for i, adapter in enumerate(placed):
        if adapter is None and new:
            placed[i] = new.pop(0)
    placed += new
    while None in placed:
        last = placed.pop()
        if last is not None:
            placed[placed.index(None)] = last
    return [a for a in placed if a is not None]


def _fitting(stack: Factors, slots: int, rank: int) -> Factors:
    """The stack with room for these; slots grow by doubling, so that growing stays cheap."""
    have, most = stack[0].shape[:2]
    if slots <= have and rank <= most:
        return stack
    shape = (have if slots <= have else max(slots, 2 * have), max(most, rank))
    a, b = (_grown(part, shape) for part in stack)
    return a, b


def _grown(part: Float[Tensor, "S R D"], shape: tuple[int, int]) -> Float[Tensor, "U Q D"]:
    grown = part.new_zeros(*shape, part.shape[2])
    grown[: part.shape[0], : part.shape[1]] = part
    return grown
