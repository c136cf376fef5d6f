"""What lies between two versions."""

from dataclasses import dataclass

from ouroboros.domain.evaluation import Evaluation
from ouroboros.domain.records import Version


@dataclass(frozen=True, slots=True)
class Answers:
    """One probe, what should be answered, and what each of two versions does answer."""

    prompt: str
    expected: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions, on the same prompts and by their weights.

    distance  norm of the difference of their updates, and the norm of each update, all as shares of the
              norm of the layers that they adapt.
    answers   to the probes; `scores` holds how both did on all of them. Empty without probes.
    learned   events of the journal that `after` has learned on its way from their common ancestor.
    """

    before: Version
    after: Version
    distance: float
    strengths: tuple[float, float]
    learned: tuple[int, ...] = ()
    answers: tuple[Answers, ...] = ()
    scores: tuple[Evaluation, Evaluation] | None = None
