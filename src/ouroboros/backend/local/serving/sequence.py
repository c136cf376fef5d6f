"""One growing answer: it samples its next token and streams the text that can no longer change."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ouroboros.backend.base import GenerationChunk
from ouroboros.backend.local.model.tokenizer import ChatTokenizer
from ouroboros.domain.generation import Generation, GenerationConfig, TokenLogprob
from ouroboros.lora.bank import BankedAdapter

_REPLACEMENT_CHARACTER = "\ufffd"


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt in token ids, with the generation config and the adapter (None: the base)."""

    ids: tuple[int, ...]
    config: GenerationConfig
    adapter: BankedAdapter | None


class GeneratedSequence:
    """The tokens of one answer, and how much of its text has been streamed."""

    def __init__(self, prompt: TokenizedPrompt, tokenizer: ChatTokenizer) -> None:
        self.prompt = prompt
        self.finish = ""
        self._tokenizer = tokenizer
        self._config = prompt.config
        self._limit = min(prompt.config.max_tokens, tokenizer.remaining_context(prompt.ids))
        self._tokens: list[int] = []
        self._logprobs: list[float] = []
        self._details: list[TokenLogprob] = []
        self._streamed = 0
        self._text = ""
        self._shown = 0
        self._generator = _make_generator(prompt.config)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always the next one."""
        return self._generator is None

    @property
    def remaining(self) -> int:
        """Number of tokens that may still follow."""
        return self._limit - len(self._tokens)

    @property
    def max_length(self) -> int:
        """Tokens of the prompt and the answer together, at most."""
        return len(self.prompt.ids) + self._limit

    @property
    def last_token(self) -> int:
        """The newest token."""
        return self._tokens[-1]

    def sample(self, logits: Float[Tensor, "V"]) -> int:
        """Sample the next token from `logits` [V] by temperature and top-p (arXiv 1904.09751)."""
        probs = (logits / self._config.temperature).softmax(0).cpu()
        if self._config.top_p < 1.0:
            order = probs.argsort(descending=True, stable=True)
            before = probs[order].cumsum(0) - probs[order]
            probs[order[before >= self._config.top_p]] = 0.0
        return int(torch.multinomial(probs, 1, generator=self._generator))

    @property
    def top_count(self) -> int:
        """Number of most likely tokens to report with each token."""
        return self._config.top_logprobs or 0

    def append(
        self, token: int, logprob: float, alternatives: Sequence[tuple[int, float]] = ()
    ) -> GenerationChunk:
        """Append the next token; returns the text that can be streamed now."""
        # 1. Record the token with its log-probabilities.
        self._tokens.append(token)
        self._logprobs.append(logprob)
        if self._config.top_logprobs is not None and token not in self._tokenizer.end_ids:
            likeliest = tuple(self._make_detail(*other) for other in alternatives[: self.top_count])
            self._details.append(self._make_detail(token, logprob, likeliest))

        # 2. End at an end token, at the limit, or at a stop string, which the text does not include.
        if token in self._tokenizer.end_ids:
            self.finish = "stop"
        elif len(self._tokens) >= self._limit:
            self.finish = "length"
        self._text = self._tokenizer.decode(self._tokens)
        self._truncate_at_stop()

        # 3. Stream the new text that later tokens cannot change, with the tokens that it consists of.
        end = len(self._text) if self.finish else self._stable_length()
        piece, self._shown = self._text[self._shown : end], max(self._shown, end)
        if not self.finish:
            details = self._get_details_within(self._shown)[self._streamed :] if piece else ()
            self._streamed += len(details)
            return GenerationChunk(piece, details=details)
        generation = self.to_generation()
        return GenerationChunk(piece, generation, generation.details[self._streamed :])

    def to_generation(self) -> Generation:
        """Returns the finished answer with its tokens, their log-probabilities and why it stopped."""
        return Generation(
            self._text,
            tuple(self._tokens),
            tuple(self._logprobs),
            self.finish,
            len(self.prompt.ids),
            details=self._get_details_within(len(self._text)),
        )

    def _make_detail(
        self, token: int, logprob: float, alternatives: tuple[TokenLogprob, ...] = ()
    ) -> TokenLogprob:
        return TokenLogprob(token, self._tokenizer.token_bytes(token), logprob, alternatives)

    def _get_details_within(self, end: int) -> tuple[TokenLogprob, ...]:
        """Returns the tokens that begin within the first `end` characters of the text."""
        size, start = len(self._text[:end].encode(errors="replace")), 0
        for count, detail in enumerate(self._details):
            if start >= size:
                return tuple(self._details[:count])
            start += len(detail.data)
        return tuple(self._details)

    def _truncate_at_stop(self) -> None:
        stops = [start for start in (self._text.find(s) for s in self._config.stop) if start >= 0]
        if stops:
            self._text = self._text[: min(stops)]
            self.finish = "stop"

    def _stable_length(self) -> int:
        """Returns the length of the text that later tokens cannot change.

        It excludes an incomplete character and the beginning of a stop string at the end.
        """
        text = self._text.rstrip(_REPLACEMENT_CHARACTER)
        partial_stop = max(
            (n for s in self._config.stop for n in range(1, len(s)) if text.endswith(s[:n])), default=0
        )
        return max(len(text) - partial_stop, self._shown)


MIN_TEMPERATURE = 1e-6
"""Below this temperature sampling is greedy: logits divided by it would overflow."""


def _make_generator(config: GenerationConfig) -> torch.Generator | None:
    """Create a random generator for one answer, so that other rows of a batch do not affect it."""
    if config.temperature < MIN_TEMPERATURE:
        return None
    generator = torch.Generator()
    generator.seed() if config.seed is None else generator.manual_seed(config.seed)
    return generator
