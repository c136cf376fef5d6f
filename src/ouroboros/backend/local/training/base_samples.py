"""Passages that the base itself writes: where a training keeps an adapter with it.

What an adapter does to text that nobody taught it shows in any text, so the base's own serves: it is the
base's distribution by definition, and needs no data (LLM-QAT, arXiv 2305.17888, distils so). A passage
tells at each of its tokens what the base would have said.

On a base of half a billion parameters they take half a minute to write, so they are kept on disk: the
next program trains with the same ones.
"""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ouroboros.backend.local.cache.kv_cache import KVCache
from ouroboros.backend.local.model.dtype import describe_machine
from ouroboros.backend.local.model.load import BaseRuntime
from ouroboros.backend.local.model.tokenizer import ChatTokenizer, TokenizedPair
from ouroboros.backend.local.runtime.worker import Steps
from ouroboros.backend.local.serving.continuous_batch import decode_step
from ouroboros.backend.local.serving.prefill import prefill_prompts
from ouroboros.backend.local.training.distillation import KEPT, Teacher, teacher_topk
from ouroboros.backend.local.training.rows import TokenizedRow
from ouroboros.domain.data import Row
from ouroboros.domain.losses import Distillation
from ouroboros.lora.slots import Slots
from ouroboros.lora.transfer import to_device

PASSAGES, TOKENS = 64, 64

ASKED = 16
"""Tokens of a beginning that is asked about."""

WEIGHT = 30.0
"""What a passage counts for beside a row to learn: docs/decisions/0009-the-gate.md has it."""


EDITION = 1
"""Of the way they are written: others are not read."""

Told = tuple[TokenizedPair, Teacher]
"""A passage, and what the base says at each of its tokens."""


class BaseSamples:
    """A base's passages: written when they are first asked for, and the same ones ever after.

    They are kept in `folder`, where one is given. What cannot be read there is written again.
    """

    def __init__(self, runtime: BaseRuntime, folder: Path | None = None) -> None:
        self._runtime = runtime
        self._file = folder / f"{_name(runtime)}.safetensors" if folder else None
        self._items: tuple[TokenizedRow, ...] = ()

    def load_or_generate(self) -> Steps[Any, tuple[TokenizedRow, ...]]:
        """Passages to train along, with the base as their teacher. A function of the base alone."""
        if not self._items:
            told = _load(self._file) if self._file else None
            if told is None:
                told = yield from self._write()
            row = Row("", "", Distillation("base"), WEIGHT)
            self._items = tuple(
                TokenizedRow(row, (s,), (0.0,), t.to(self._runtime.device)) for s, t in told
            )
        return self._items

    def _write(self) -> Steps[Any, list[Told]]:
        sequences = yield from generate_samples(self._runtime)
        count = len(sequences)
        teachers = yield from teacher_topk(self._runtime, sequences, [None] * count, [False] * count)
        told = list(zip(sequences, teachers, strict=True))
        if self._file:
            _save(self._file, told)
        return told


def generate_samples(runtime: BaseRuntime) -> Steps[Any, list[TokenizedPair]]:
    """Half are plain text that begins anywhere; half are answers to the beginnings of those.

    So both what a model may read and what it may be asked is among them. One forward pass a step.
    """
    tokenizer, chance = runtime.tokenizer, torch.Generator().manual_seed(0)
    text = yield from _sampled(runtime, _starts(tokenizer, chance), chance)
    begun = [(*t.prompt, *t.output)[:ASKED] for t in text]
    texts = [tokenizer.anchor_conversation(tokenizer.decode(ids)) for ids in begun]
    asked = [tokenizer.encode_prompt(text) or ids for text, ids in zip(texts, begun, strict=True)]
    return [*text, *(yield from _sampled(runtime, asked, chance))]


def _starts(tokenizer: ChatTokenizer, chance: torch.Generator) -> list[tuple[int, ...]]:
    """Any one token of plain text, behind the one that opens a text, if there is one."""
    begin = tokenizer.hf_tokenizer.bos_token_id
    special = set(tokenizer.hf_tokenizer.all_special_ids)
    plain = [i for i in range(len(tokenizer.hf_tokenizer)) if i not in special]
    drawn = torch.randint(len(plain), (PASSAGES // 2,), generator=chance).tolist()
    return [(*([begin] if isinstance(begin, int) else []), plain[i]) for i in drawn]


def _sampled(
    runtime: BaseRuntime, starts: Sequence[tuple[int, ...]], chance: torch.Generator
) -> Steps[Any, list[TokenizedPair]]:
    """Go on from each start at temperature 1, to the same length.

    An end token does not end a passage: the further turn or text after it is what the base says, too.
    """
    room = min(TOKENS, *(runtime.tokenizer.remaining_context(start) for start in starts))
    columns, slots = KVCache(), Slots(runtime.device)
    said: list[Int[Tensor, "B"]] = []
    for _ in range(room):
        with torch.no_grad():
            if said:
                slots.assign_rows([None] * len(starts))
                logits = decode_step(runtime, to_device(said[-1], runtime.device), columns, slots)
            else:
                logits, rows = prefill_prompts(runtime, starts, [None] * len(starts))
                for row in rows:
                    columns.add_row(row)
            said.append(_drawn(logits.float().softmax(-1).cpu(), chance))
        yield None
    outputs = torch.stack(said, dim=1).tolist()
    return [TokenizedPair(s, tuple(output)) for s, output in zip(starts, outputs, strict=True)]


def _drawn(probs: Float[Tensor, "B V"], chance: torch.Generator) -> Int[Tensor, "B"]:
    """A token for each row: the first up to which there is as much probability as is drawn."""
    sums = probs.cumsum(-1)
    drawn = torch.rand(len(probs), 1, generator=chance) * sums[:, -1:]
    return torch.searchsorted(sums, drawn)[:, 0].clamp(max=probs.shape[1] - 1)


def _name(runtime: BaseRuntime) -> str:
    """Of what passages depend on: the base, what it computes in and on, and how they are written."""
    on = (runtime.dtype, describe_machine(), runtime.device.type)
    written = (*on, EDITION, PASSAGES, TOKENS, ASKED, KEPT)
    # Frozen: with another text, the passages that are stored already would be generated again.
    text = f"({', '.join([runtime.base.fingerprint.to_text(), *map(repr, written)])})"
    return hashlib.sha256(text.encode()).hexdigest()


def _save(file: Path, told: Sequence[Told]) -> None:
    """Whole or not at all; a disk that is full or not to be written to is done without."""
    with suppress(OSError, SafetensorError):
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f"{file.name}.{os.getpid()}")
        save_file({name: part.contiguous() for name, part in _tensors(told).items()}, draft)
        draft.replace(file)


def _tensors(told: Sequence[Told]) -> dict[str, Tensor]:
    """Passages end to end. `tokens` has of each how many its prompt and its output have."""
    sequences, teachers = [s for s, _ in told], [t for _, t in told]
    return {
        "tokens": torch.tensor([(len(s.prompt), len(s.output)) for s in sequences]),
        "text": torch.tensor([i for s in sequences for i in (*s.prompt, *s.output)]),
        **{n: torch.cat([getattr(t, n) for t in teachers]).cpu() for n in ("ids", "logprobs", "rest")},
    }


def _load(file: Path) -> list[Told] | None:
    """What was saved there; None where there is nothing of use."""
    with suppress(OSError, SafetensorError, KeyError, ValueError, RuntimeError):
        parts, found = load_file(file), []
        tokens = parts["tokens"].tolist()
        texts = parts["text"].split([p + o for p, o in tokens])
        said = (parts[name].split([o for _, o in tokens]) for name in ("ids", "logprobs", "rest"))
        for (prompt, _), text, *teacher in zip(tokens, texts, *said, strict=True):
            ids = tuple(text.tolist())
            found.append((TokenizedPair(ids[:prompt], ids[prompt:]), Teacher(*teacher)))
        return found
    return None
