"""Answering prompts, for many adapters in one batch, token by token."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from ouroboros.backend.base import Delta
from ouroboros.backend.local.load import FrozenModel
from ouroboros.backend.local.tokens import Codec
from ouroboros.backend.local.worker import Steps
from ouroboros.domain.generation import Generation, GenerationConfig
from ouroboros.lora.bank import BankedAdapter, Route

_PARTIAL = "\ufffd"


@dataclass(frozen=True)
class Question:
    """A prompt in token ids, how to answer it, and the adapter that answers (None: the base)."""

    prompt: tuple[int, ...]
    config: GenerationConfig
    adapter: BankedAdapter | None


def answer(frozen: FrozenModel, questions: Sequence[Question]) -> Steps[list[Delta], list[Generation]]:
    """Answer all questions in one batch. Yields, after each token, one piece of text per question."""
    model, device = frozen.model, frozen.device
    answers = [_Answer(q, frozen.codec) for q in questions]
    route = Route.of_rows([q.adapter for q in questions], device)
    ids, mask = _left_padded([q.prompt for q in questions])
    ids, mask = ids.to(device), mask.to(device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    while True:
        with torch.inference_mode(), frozen.bank.routed(route):
            logits = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=torch.tensor([ids.shape[1] - 1], device=device),
            ).logits[:, -1]
        tokens, logprobs = _choose(logits.float(), answers)
        pieces = [
            a.push(*step) for a, step in zip(answers, zip(tokens, logprobs, strict=True), strict=True)
        ]
        yield pieces
        if all(a.finish for a in answers):
            return [a.generation() for a in answers]
        ids = torch.tensor(tokens, device=device)[:, None]
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        positions = positions[:, -1:] + 1


class _Answer:
    """One growing answer: its tokens, and how much of its text may be shown already."""

    def __init__(self, question: Question, codec: Codec) -> None:
        self.question = question
        self.finish = ""
        self._codec = codec
        self._config = question.config
        self._limit = min(question.config.max_tokens, codec.room(question.prompt))
        self._tokens: list[int] = []
        self._logprobs: list[float] = []
        self._text = ""
        self._shown = 0
        self._generator = _generator(question.config)

    def sample(self, logits: Float[Tensor, "V"]) -> int:
        """Draw the next token: greedy at temperature 0, else from the nucleus (arXiv 1904.09751)."""
        if self._generator is None:
            return int(logits.argmax())
        probs = (logits / self._config.temperature).softmax(0).cpu()
        if self._config.top_p < 1.0:
            order = probs.argsort(descending=True, stable=True)
            before = probs[order].cumsum(0) - probs[order]
            probs[order[before >= self._config.top_p]] = 0.0
        return int(torch.multinomial(probs, 1, generator=self._generator))

    def push(self, token: int, logprob: float) -> Delta:
        """Take the next token; the text it allows to be shown. A finished answer takes no more."""
        if self.finish:
            return Delta("")
        self._tokens.append(token)
        self._logprobs.append(logprob)
        if token in self._codec.ends:
            self.finish = "stop"
        elif len(self._tokens) >= self._limit:
            self.finish = "length"
        self._text = self._codec.text(self._tokens)
        self._cut_at_stop()
        end = len(self._text) if self.finish else self._safe_end()
        piece, self._shown = self._text[self._shown : end], max(self._shown, end)
        return Delta(piece, self.generation() if self.finish else None)

    def generation(self) -> Generation:
        return Generation(
            self._text,
            tuple(self._tokens),
            tuple(self._logprobs),
            self.finish,
            len(self.question.prompt),
        )

    def _cut_at_stop(self) -> None:
        found = [at for at in (self._text.find(s) for s in self._config.stop) if at >= 0]
        if found:
            self._text = self._text[: min(found)]
            self.finish = "stop"

    def _safe_end(self) -> int:
        """Text up to here can no longer change: no half character, no half stop string."""
        text = self._text.rstrip(_PARTIAL)
        held = max(
            (n for s in self._config.stop for n in range(1, len(s)) if text.endswith(s[:n])), default=0
        )
        return max(len(text) - held, self._shown)


def _generator(config: GenerationConfig) -> torch.Generator | None:
    """The row's own source of randomness, so that a batch's other rows do not disturb it."""
    if config.temperature == 0.0:
        return None
    generator = torch.Generator()
    generator.seed() if config.seed is None else generator.manual_seed(config.seed)
    return generator


def _choose(logits: Float[Tensor, "B V"], answers: Sequence[_Answer]) -> tuple[list[int], list[float]]:
    """The next token of each answer, and its log-probability under the model at temperature 1."""
    tokens = [a.sample(row) for a, row in zip(answers, logits, strict=True)]
    chosen = logits.log_softmax(-1).gather(1, torch.tensor(tokens, device=logits.device)[:, None])
    return tokens, chosen[:, 0].tolist()


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Ids and mask, each prompt ending at the last column."""
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids, mask
