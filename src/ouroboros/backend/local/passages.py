"""Passages that the base itself writes: where a training keeps an adapter with it.

What an adapter does to text that nobody taught it shows in any text, so the base's own serves: it is the
base's distribution by definition, and needs no data (LLM-QAT, arXiv 2305.17888, distils so). A passage
tells at each of its tokens what the base would have said.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ouroboros.backend.local.columns import Columns
from ouroboros.backend.local.load import FrozenModel
from ouroboros.backend.local.prefill import prefill
from ouroboros.backend.local.running import following
from ouroboros.backend.local.step import Item
from ouroboros.backend.local.teacher import taught
from ouroboros.backend.local.tokens import Codec, Encoded
from ouroboros.backend.local.worker import Steps
from ouroboros.domain.losses import Distil
from ouroboros.domain.rows import Row
from ouroboros.lora.slots import Slots

PASSAGES, TOKENS = 64, 64

ASKED = 16
"""Tokens of a beginning that is asked about."""

WEIGHT = 30.0
"""What a passage counts for beside a row to learn: docs/decisions/0009-the-gate.md has it."""


class Passages:
    """A base's passages: written when they are first asked for, and the same ones ever after."""

    def __init__(self, frozen: FrozenModel) -> None:
        self._frozen = frozen
        self._items: tuple[Item, ...] = ()

    def written(self) -> Steps[Any, tuple[Item, ...]]:
        """Passages to train along, with the base as their teacher. A function of the base alone."""
        if not self._items:
            sequences = yield from write(self._frozen)
            count = len(sequences)
            teachers = yield from taught(self._frozen, sequences, [None] * count, [False] * count)
            row = Row("", "", Distil("base"), WEIGHT)
            pairs = zip(sequences, teachers, strict=True)
            self._items = tuple(Item(row, (s,), (0.0,), t) for s, t in pairs)
        return self._items


def write(frozen: FrozenModel) -> Steps[Any, list[Encoded]]:
    """Half are plain text that begins anywhere; half are answers to the beginnings of those.

    So both what a model may read and what it may be asked is among them. One forward pass a step.
    """
    codec, chance = frozen.codec, torch.Generator().manual_seed(0)
    text = yield from _sampled(frozen, _starts(codec, chance), chance)
    begun = [(*t.prompt, *t.output)[:ASKED] for t in text]
    asked = [codec.prompt_ids(codec.text(ids)) or ids for ids in begun]
    return [*text, *(yield from _sampled(frozen, asked, chance))]


def _starts(codec: Codec, chance: torch.Generator) -> list[tuple[int, ...]]:
    """Any one token of plain text, behind the one that opens a text, if there is one."""
    begin = codec.tokenizer.bos_token_id
    special = set(codec.tokenizer.all_special_ids)
    plain = [i for i in range(len(codec.tokenizer)) if i not in special]
    drawn = torch.randint(len(plain), (PASSAGES // 2,), generator=chance).tolist()
    return [(*([begin] if isinstance(begin, int) else []), plain[i]) for i in drawn]


def _sampled(
    frozen: FrozenModel, starts: Sequence[tuple[int, ...]], chance: torch.Generator
) -> Steps[Any, list[Encoded]]:
    """Go on from each start at temperature 1, to the same length.

    An end token does not end a passage: the further turn or text after it is what the base says, too.
    """
    room = min(TOKENS, *(frozen.codec.room(start) for start in starts))
    columns, slots = Columns(), Slots(frozen.device)
    said: list[Int[Tensor, "B"]] = []
    for _ in range(room):
        with torch.no_grad():
            if said:
                slots.arrange([None] * len(starts))
                logits = following(frozen, said[-1].to(frozen.device), columns, slots)
            else:
                logits, rows = prefill(frozen, starts, [None] * len(starts))
                for row in rows:
                    columns.join(row)
            said.append(_drawn(logits.float().softmax(-1).cpu(), chance))
        yield None
    outputs = torch.stack(said, dim=1).tolist()
    return [Encoded(s, tuple(output)) for s, output in zip(starts, outputs, strict=True)]


def _drawn(probs: Float[Tensor, "B V"], chance: torch.Generator) -> Int[Tensor, "B"]:
    """A token for each row: the first up to which there is as much probability as is drawn."""
    sums = probs.cumsum(-1)
    drawn = torch.rand(len(probs), 1, generator=chance) * sums[:, -1:]
    return torch.searchsorted(sums, drawn)[:, 0].clamp(max=probs.shape[1] - 1)
