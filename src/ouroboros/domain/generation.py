"""How to generate, and what was generated."""

from dataclasses import dataclass

from ouroboros.domain.checks import check_int, check_number, validate
from ouroboros.domain.errors import InvalidConfig
from ouroboros.domain.limits import MAX_NEW_TOKENS, MAX_SEED
from ouroboros.domain.result import Result
from ouroboros.domain.routing import RouteMatch

MAX_TOP_LOGPROBS = 20
"""Alternatives of one token that an answer can name."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token: its id, its text as bytes, and its log-probability at temperature 1.

    The bytes may hold a part of a character: tokens of a byte-level vocabulary do. `alternatives` are
    the likeliest tokens in its place, the likeliest first.
    """

    token: int
    data: bytes
    logprob: float
    alternatives: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """Greedy at temperature 0 (the default); otherwise nucleus sampling.

    max_tokens   the most tokens to generate.
    temperature  0 is greedy; up to 2.
    top_p        sample from the smallest set of tokens that holds this much probability.
    seed         makes sampling repeatable, whatever else is in the batch; None draws a fresh one.
    stop         the text ends before the first of these strings.
    top_logprobs  keep each token's text, and this many of the likeliest tokens in its place (0 to 20);
                 None keeps neither.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None

    def validate(self) -> Result["GenerationConfig"]:
        return validate(self, self.check)

    def check(self) -> None:
        """Raises `InvalidConfig` if a field is of the wrong type or out of range."""
        check_int("max_tokens", self.max_tokens, 1, MAX_NEW_TOKENS)
        check_number("temperature", self.temperature, 0.0, 2.0)
        check_number("top_p", self.top_p, 1e-6, 1.0)
        if self.seed is not None:
            check_int("seed", self.seed, 0, MAX_SEED)
        if self.top_logprobs is not None:
            check_int("top_logprobs", self.top_logprobs, 0, MAX_TOP_LOGPROBS)
        if not isinstance(self.stop, tuple) or not all(isinstance(s, str) and s for s in self.stop):
            raise InvalidConfig("stop is not a tuple of non-empty strings.", hint='Like stop=("\\n",).')


@dataclass(frozen=True, slots=True)
class Generation:
    """An answer: its text, and the tokens it was sampled as with their log-probabilities [T].

    `finish` is "stop" (the model ended, or a stop string came) or "length" (max_tokens or the context
    ran out). `version` names the adapter's version that answered, None for the base. When the adapter
    was to be chosen, `route` is the nearest one: it answered if it was sure, and the base otherwise.
    `details` has the text's tokens one by one if `top_logprobs` was given; tokens that end the answer
    and those cut off with a stop string are not among them.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str
    prompt_tokens: int
    version: str | None = None
    route: RouteMatch | None = None
    details: tuple[TokenLogprob, ...] = ()
