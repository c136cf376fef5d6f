"""Base samples: passages that the base generates, on which a training keeps an adapter close to it.

The effect of an adapter on text outside its task shows on any text, so samples of the base itself serve:
they have the base's distribution by definition and need no data (as in LLM-QAT, arXiv 2305.17888). Each
passage has the base's next-token distribution at each of its tokens.

Generation takes half a minute on a base of half a billion parameters, so passages are stored on disk
and the next process trains with the same ones.
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
from ouroboros.backend.local.training.distillation import TOP_K, Teacher, teacher_topk
from ouroboros.backend.local.training.rows import TokenizedRow
from ouroboros.domain.data import Row
from ouroboros.domain.losses import Distillation
from ouroboros.lora.slots import Slots
from ouroboros.lora.transfer import to_device

PASSAGES, TOKENS = 64, 64

PROMPT_TOKENS = 16
"""Tokens at the start of a passage that become the prompt of a second passage."""

WEIGHT = 30.0
"""Weight of a passage relative to a row to learn; measured in docs/decisions/0009-the-gate.md."""


FORMAT_VERSION = 1
"""Version of the stored format; files of other versions have other names and are not read."""

TaughtSample = tuple[TokenizedPair, Teacher]
"""A passage, and the base's distribution at each of its output tokens."""


class BaseSamples:
    """The passages of a base, generated on first use and the same from then on.

    With a `folder` they are stored there. A file that is missing or damaged is generated again.
    """

    def __init__(self, runtime: BaseRuntime, folder: Path | None = None) -> None:
        self._runtime = runtime
        self._file = folder / f"{_cache_key(runtime)}.safetensors" if folder else None
        self._rows: tuple[TokenizedRow, ...] = ()

    def load_or_generate(self) -> Steps[Any, tuple[TokenizedRow, ...]]:
        """Returns passages as rows with the base as their teacher. They depend on the base alone."""
        if not self._rows:
            samples = _load(self._file) if self._file else None
            if samples is None:
                samples = yield from self._generate()
            row = Row("", "", Distillation("base"), WEIGHT)
            self._rows = tuple(
                TokenizedRow(row, (s,), (0.0,), t.to(self._runtime.device)) for s, t in samples
            )
        return self._rows

    def _generate(self) -> Steps[Any, list[TaughtSample]]:
        sequences = yield from generate_samples(self._runtime)
        count = len(sequences)
        teachers = yield from teacher_topk(self._runtime, sequences, [None] * count, [False] * count)
        samples = list(zip(sequences, teachers, strict=True))
        if self._file:
            _save(self._file, samples)
        return samples


def generate_samples(runtime: BaseRuntime) -> Steps[Any, list[TokenizedPair]]:
    """Generate passages: half are plain text, half are answers to the beginnings of those texts.

    So they cover both texts and conversations. Yields after each forward pass.
    """
    tokenizer, generator = runtime.tokenizer, torch.Generator().manual_seed(0)
    text = yield from _sample_continuations(runtime, _draw_starts(tokenizer, generator), generator)
    beginnings = [(*t.prompt, *t.output)[:PROMPT_TOKENS] for t in text]
    texts = [tokenizer.anchor_conversation(tokenizer.decode(ids)) for ids in beginnings]
    prompts = [tokenizer.encode_prompt(text) or ids for text, ids in zip(texts, beginnings, strict=True)]
    return [*text, *(yield from _sample_continuations(runtime, prompts, generator))]


def _draw_starts(tokenizer: ChatTokenizer, generator: torch.Generator) -> list[tuple[int, ...]]:
    """Draw one random token as the start of each plain text, after the BOS token if there is one."""
    bos_id = tokenizer.hf_tokenizer.bos_token_id
    special = set(tokenizer.hf_tokenizer.all_special_ids)
    plain = [i for i in range(len(tokenizer.hf_tokenizer)) if i not in special]
    token_indices = torch.randint(len(plain), (PASSAGES // 2,), generator=generator).tolist()
    return [(*([bos_id] if isinstance(bos_id, int) else []), plain[i]) for i in token_indices]


def _sample_continuations(
    runtime: BaseRuntime, starts: Sequence[tuple[int, ...]], generator: torch.Generator
) -> Steps[Any, list[TokenizedPair]]:
    """Sample a continuation of each start at temperature 1, all of the same length.

    An end token does not end a passage: the turn or text that follows is the base's distribution too.
    """
    length = min(TOKENS, *(runtime.tokenizer.remaining_context(start) for start in starts))
    kv_cache, slots = KVCache(), Slots(runtime.device)
    tokens: list[Int[Tensor, "B"]] = []
    for _ in range(length):
        with torch.no_grad():
            if tokens:
                slots.assign_rows([None] * len(starts))
                logits = decode_step(runtime, to_device(tokens[-1], runtime.device), kv_cache, slots)
            else:
                logits, rows = prefill_prompts(runtime, starts, [None] * len(starts))
                for row in rows:
                    kv_cache.add_row(row)
            tokens.append(_sample_tokens(logits.float().softmax(-1).cpu(), generator))
        yield None
    outputs = torch.stack(tokens, dim=1).tolist()
    return [TokenizedPair(s, tuple(output)) for s, output in zip(starts, outputs, strict=True)]


def _sample_tokens(probs: Float[Tensor, "B V"], generator: torch.Generator) -> Int[Tensor, "B"]:
    """Sample one token per row by inverting the cumulative distribution at a uniform random number."""
    sums = probs.cumsum(-1)
    thresholds = torch.rand(len(probs), 1, generator=generator) * sums[:, -1:]
    return torch.searchsorted(sums, thresholds)[:, 0].clamp(max=probs.shape[1] - 1)


def _cache_key(runtime: BaseRuntime) -> str:
    """Hash what passages depend on: the base, its dtype, machine and device, and the settings here."""
    machine = (runtime.dtype, describe_machine(), runtime.device.type)
    settings = (*machine, FORMAT_VERSION, PASSAGES, TOKENS, PROMPT_TOKENS, TOP_K)
    # Frozen: with another text, the passages that are stored already would be generated again.
    text = f"({', '.join([runtime.base.fingerprint.to_text(), *map(repr, settings)])})"
    return hashlib.sha256(text.encode()).hexdigest()


def _save(file: Path, samples: Sequence[TaughtSample]) -> None:
    """Write the file atomically. A full or read-only disk is not an error: the file is only a cache."""
    with suppress(OSError, SafetensorError):
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f"{file.name}.{os.getpid()}")
        save_file({name: part.contiguous() for name, part in _to_tensors(samples).items()}, draft)
        draft.replace(file)


def _to_tensors(samples: Sequence[TaughtSample]) -> dict[str, Tensor]:
    """Concatenate passages. `tokens` has the prompt length and the output length of each."""
    sequences, teachers = [s for s, _ in samples], [t for _, t in samples]
    return {
        "tokens": torch.tensor([(len(s.prompt), len(s.output)) for s in sequences]),
        "text": torch.tensor([i for s in sequences for i in (*s.prompt, *s.output)]),
        "ids": torch.cat([t.ids for t in teachers]).cpu(),
        "logprobs": torch.cat([t.logprobs for t in teachers]).cpu(),
        "rest": torch.cat([t.other_logprob for t in teachers]).cpu(),
    }


def _load(file: Path) -> list[TaughtSample] | None:
    """Load stored passages; None if the file is missing or damaged."""
    with suppress(OSError, SafetensorError, KeyError, ValueError, RuntimeError):
        parts, samples = load_file(file), []
        tokens = parts["tokens"].tolist()
        texts = parts["text"].split([p + o for p, o in tokens])
        teacher_parts = (
            parts[name].split([o for _, o in tokens]) for name in ("ids", "logprobs", "rest")
        )
        for (prompt, _), text, *teacher in zip(tokens, texts, *teacher_parts, strict=True):
            ids = tuple(text.tolist())
            samples.append((TokenizedPair(ids[:prompt], ids[prompt:]), Teacher(*teacher)))
        return samples
    return None
