"""How to generate, and what was generated."""

from dataclasses import dataclass

from ouroboros.domain.checks import check_int, check_number, validated
from ouroboros.domain.errors import InvalidConfig
from ouroboros.domain.result import Result
from ouroboros.domain.routing import RouteMatch


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """Greedy at temperature 0 (the default); otherwise nucleus sampling.

    max_tokens   the most tokens to generate.
    temperature  0 is greedy; up to 2.
    top_p        sample from the smallest set of tokens that holds this much probability.
    seed         makes sampling repeatable, whatever else is in the batch; None draws a fresh one.
    stop         the text ends before the first of these strings.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def validate(self) -> Result["GenerationConfig"]:
        return validated(self, self.check)

    def check(self) -> None:
        check_int("max_tokens", self.max_tokens, 1, 1_000_000)
        check_number("temperature", self.temperature, 0.0, 2.0)
        check_number("top_p", self.top_p, 1e-6, 1.0)
        if self.seed is not None:
            check_int("seed", self.seed, 0, 2**63 - 1)
        if not isinstance(self.stop, tuple) or not all(isinstance(s, str) and s for s in self.stop):
            raise InvalidConfig("stop is not a tuple of non-empty strings.", hint='Like stop=("\\n",).')


@dataclass(frozen=True, slots=True)
class Generation:
    """An answer: its text, and the tokens it was sampled as with their log-probabilities [T].

    `finish` is "stop" (the model ended, or a stop string came) or "length" (max_tokens or the context
    ran out). `version` names the adapter's version that answered, None for the base. When the adapter
    was to be chosen, `route` is the nearest one: it answered if it was sure, and the base otherwise.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str
    prompt_tokens: int
    version: str | None = None
    route: RouteMatch | None = None
