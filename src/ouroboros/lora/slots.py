"""The adapters of a running batch, in which rows come and go between the tokens.

Every slot holds one adapter's factors, stacked with the others' per layer, scale worked in, and zeros up
to the largest rank; slot 0 is the base and holds zeros alone. The stacks stay from step to step: a row
that joins with an adapter already there costs nothing, a new adapter is copied into one slot.
"""

from collections.abc import Sequence
from itertools import count

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.transfer import CPU, to_device

Stack = tuple[Tensor, Tensor]
"""One layer's A^T [S, I, R] and B^T [S, R, O] of every slot."""

Bags = tuple[Int[Tensor, "P"], Int[Tensor, "B"]]
"""For each of B batch rows the rows of a table that its slot has, P in all; and where its own begin."""

_SUM = 0
"""How `torch.embedding_bag` calls a weighted sum."""


class Slots:
    """Which adapter answers each row of a batch [B, 1, I]; a route that is changed, not made anew.

    A row's two products are weighted sums: of I rows of its slot's A^T with x for weights, then of R
    rows of its B^T. `embedding_bag` takes such sums straight from the stack, so it does not matter how
    many adapters there are or who has which rows: a row's sums are the same in any company. On a CPU
    they take a half to a quarter of the time of batched products of single rows. No row ever meets
    another adapter's factors, so a row that is not finite spoils no other.
    """

    def __init__(self, device: torch.device = CPU) -> None:
        self._device = device
        self._rows: tuple[BankedAdapter | None, ...] = ()
        self._slots: dict[BankedAdapter, int] = {}
        self._stacks: dict[str, Stack] = {}
        self._bags: dict[int, Bags] = {}

    def __len__(self) -> int:
        """Slots in use, the base's not counted."""
        return len(self._slots)

    def assign_rows(self, rows: Sequence[BankedAdapter | None]) -> None:
        """Row i is answered by rows[i] from now on."""
        if tuple(rows) == self._rows:
            return
        self._rows = tuple(rows)
        self._bags.clear()
        wanted = [a for a in dict.fromkeys(rows) if a is not None]
        assigned = {a: self._slots[a] for a in wanted if a in self._slots}
        occupied = set(assigned.values())
        free = (slot for slot in count(1) if slot not in occupied)
        new = {a: next(free) for a in wanted if a not in assigned}
        self._slots = assigned | new
        for adapter, slot in new.items():
            self._write_adapter(adapter, slot, 1 + max(self._slots.values()))
        if not wanted:
            self._stacks.clear()

    def adapt(
        self, path: str, x: Float[Tensor, "*B I"], y: Float[Tensor, "*B O"]
    ) -> Float[Tensor, "*B O"]:
        """Add to the base layer's output each row's adapter."""
        if path not in self._stacks:
            return y
        a, b = self._stacks[path]
        flat_x, flat_y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        return flat_y.add(self._weighted_sums(b, self._weighted_sums(a, flat_x))).view(y.shape)

    def _weighted_sums(
        self, table: Float[Tensor, "S N M"], weights: Float[Tensor, "B N"]
    ) -> Float[Tensor, "B M"]:
        """Row i's weighted sum of the N rows of its slot."""
        bags = self._bags.get(table.shape[1])
        if bags is None:
            bags = self._bags[table.shape[1]] = self._build_bags(table.shape[1])
        return torch.embedding_bag(
            table.flatten(0, 1), *bags, mode=_SUM, per_sample_weights=weights.reshape(-1)
        )[0]

    def _build_bags(self, width: int) -> Bags:
        """For a table with so many rows of each slot."""
        slots = torch.tensor([0 if a is None else self._slots[a] for a in self._rows], dtype=torch.int32)
        rows = width * slots[:, None] + torch.arange(width, dtype=torch.int32)
        starts = torch.arange(0, rows.numel(), width, dtype=torch.int32)
        return to_device(rows.view(-1), self._device), to_device(starts, self._device)

    @torch.no_grad()
    def _write_adapter(self, adapter: BankedAdapter, slot: int, slots: int) -> None:
        """Write an adapter into one of so many slots, zeros where it adapts nothing."""
        for path in adapter.paths:
            if path not in self._stacks:
                self._stacks[path] = _empty_stack(*(adapter.factors(path) or ()))
        for path, stack in self._stacks.items():
            factors, rank = adapter.factors(path), adapter.rank(path)
            a, b = self._stacks[path] = _grow_stack(stack, slots, rank)
            a[slot, :, rank:], b[slot, rank:] = 0.0, 0.0
            if factors is not None:
                a[slot, :, :rank] = factors[0].T
                torch.mul(factors[1], adapter.scale(path), out=b[slot, :rank])


def _empty_stack(a: Float[Tensor, "R I"], b: Float[Tensor, "R O"]) -> Stack:
    return a.new_empty(0, a.shape[1], 0), b.new_empty(0, 0, b.shape[1])


def _grow_stack(stack: Stack, slots: int, rank: int) -> Stack:
    """The stack with room for these; slots grow by doubling, so that growing stays cheap."""
    a, b = stack
    have, most = b.shape[:2]
    if slots <= have and rank <= most:
        return stack
    have, most = have if slots <= have else max(slots, 2 * have), max(most, rank)
    return _pad_with_zeros(a, (have, a.shape[1], most)), _pad_with_zeros(b, (have, most, b.shape[2]))


def _pad_with_zeros(part: Float[Tensor, "S M N"], shape: tuple[int, int, int]) -> Float[Tensor, "U P Q"]:
    grown = part.new_zeros(shape)
    grown[tuple(slice(n) for n in part.shape)] = part
    return grown
