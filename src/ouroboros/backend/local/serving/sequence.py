"""One answer as it grows: its next token drawn, and as much of its text as can no longer change."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ouroboros.backend.base import GenerationChunk
from ouroboros.backend.local.model.tokenizer import ChatTokenizer
from ouroboros.domain.generation import Generation, GenerationConfig, TokenLogprob
from ouroboros.lora.bank import BankedAdapter

_PARTIAL = "\ufffd"


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt in token ids, how to answer it, and the adapter that answers (None: the base)."""

    prompt: tuple[int, ...]
    config: GenerationConfig
    adapter: BankedAdapter | None


class GeneratedSequence:
    """One growing answer: its tokens, and how much of its text may be shown already."""

    def __init__(self, question: TokenizedPrompt, tokenizer: ChatTokenizer) -> None:
        self.question = question
        self.finish = ""
        self._tokenizer = tokenizer
        self._config = question.config
        self._limit = min(question.config.max_tokens, tokenizer.remaining_context(question.prompt))
        self._tokens: list[int] = []
        self._logprobs: list[float] = []
        self._details: list[TokenLogprob] = []
        self._streamed = 0
        self._text = ""
        self._shown = 0
        self._generator = _generator(question.config)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always the next one."""
        return self._generator is None

    @property
    def left(self) -> int:
        """How many tokens may still come."""
        return self._limit - len(self._tokens)

    @property
    def longest(self) -> int:
        """Tokens of the prompt and the answer, at most."""
        return len(self.question.prompt) + self._limit

    @property
    def last(self) -> int:
        """The newest token."""
        return self._tokens[-1]

    def sample(self, logits: Float[Tensor, "V"]) -> int:
        """Draw the next token from the nucleus (arXiv 1904.09751)."""
        probs = (logits / self._config.temperature).softmax(0).cpu()
        if self._config.top_p < 1.0:
            order = probs.argsort(descending=True, stable=True)
            before = probs[order].cumsum(0) - probs[order]
            probs[order[before >= self._config.top_p]] = 0.0
        return int(torch.multinomial(probs, 1, generator=self._generator))

    @property
    def top(self) -> int:
        """How many of the likeliest tokens are kept beside each."""
        return self._config.top_logprobs or 0

    def push(
        self, token: int, logprob: float, alternatives: Sequence[tuple[int, float]] = ()
    ) -> GenerationChunk:
        """Take the next token; the text it allows to be shown."""
        self._tokens.append(token)
        self._logprobs.append(logprob)
        if self._config.top_logprobs is not None and token not in self._tokenizer.end_ids:
            likeliest = tuple(self._detail(*other) for other in alternatives[: self.top])
            self._details.append(self._detail(token, logprob, likeliest))
        if token in self._tokenizer.end_ids:
            self.finish = "stop"
        elif len(self._tokens) >= self._limit:
            self.finish = "length"
        self._text = self._tokenizer.decode(self._tokens)
        self._cut_at_stop()
        end = len(self._text) if self.finish else self._safe_end()
        piece, self._shown = self._text[self._shown : end], max(self._shown, end)
        if not self.finish:
            details = self._details_within(self._shown)[self._streamed :] if piece else ()
            self._streamed += len(details)
            return GenerationChunk(piece, details=details)
        whole = self.generation()
        return GenerationChunk(piece, whole, whole.details[self._streamed :])

    def generation(self) -> Generation:
        return Generation(
            self._text,
            tuple(self._tokens),
            tuple(self._logprobs),
            self.finish,
            len(self.question.prompt),
            details=self._details_within(len(self._text)),
        )

    def _detail(
        self, token: int, logprob: float, alternatives: tuple[TokenLogprob, ...] = ()
    ) -> TokenLogprob:
        return TokenLogprob(token, self._tokenizer.token_bytes(token), logprob, alternatives)

    def _details_within(self, end: int) -> tuple[TokenLogprob, ...]:
        """The tokens that begin within the first `end` characters of the text."""
        size, start = len(self._text[:end].encode(errors="replace")), 0
        for count, detail in enumerate(self._details):
            if start >= size:
                return tuple(self._details[:count])
            start += len(detail.data)
        return tuple(self._details)

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


MIN_TEMPERATURE = 1e-6
"""Below this, sampling is greedy: logits divided by it would overflow."""


def _generator(config: GenerationConfig) -> torch.Generator | None:
    """The row's own source of randomness, so that a batch's other rows do not disturb it."""
    if config.temperature < MIN_TEMPERATURE:
        return None
    generator = torch.Generator()
    generator.seed() if config.seed is None else generator.manual_seed(config.seed)
    return generator
