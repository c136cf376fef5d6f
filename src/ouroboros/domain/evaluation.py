"""How well an adapter (or the base) answers given examples."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Greedy answers to `rows` prompts: how many equal the expected output (blanks at the ends aside).

    `mean_logprob` is the mean log-probability per token of the expected outputs; `answers` are the
    generated texts in the examples' order.
    """

    rows: int
    correct: int
    mean_logprob: float
    answers: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        return self.correct / self.rows
