"""How a few judged rows are worked into an adapter that must stay as it is otherwise."""

from dataclasses import dataclass

from ouroboros.domain.checks import check_int, check_number


@dataclass(frozen=True, slots=True)
class UpdateConfig:
    """A careful update: as few and as short steps as it takes, away from what other prompts use.

    The numbers were measured in docs/decisions/0004-one-correction.md.

    step       length of the first step, as a share of the adapter's length (Euclidean, A factors).
    growth     no step is longer than this many times the one before it; less, once one went too far.
    max_steps  steps to take at most; rows not learned by then are reported.
    likely     a wanted output counts as learned once each of its tokens has this probability; above
               one half, greedy decoding must say it.
    ridge      how freely the update may use directions that protected prompts use: 0 not at all.
    """

    step: float = 0.006
    growth: float = 4.0
    max_steps: int = 60
    likely: float = 0.62
    ridge: float = 0.1

    def check(self) -> None:
        check_number("step", self.step, 1e-6, 1.0)
        check_number("growth", self.growth, 1.0, 10.0)
        check_int("max_steps", self.max_steps, 1, 10_000)
        check_number("likely", self.likely, 0.5, 0.999)
        check_number("ridge", self.ridge, 1e-6, 1e6)
