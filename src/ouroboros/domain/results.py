"""What evaluations, comparisons, rebuilds and erasures return."""

from dataclasses import dataclass

from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Version


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


@dataclass(frozen=True, slots=True)
class ComparedAnswers:
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
    answers: tuple[ComparedAnswers, ...] = ()
    scores: tuple[Evaluation, Evaluation] | None = None


@dataclass(frozen=True, slots=True)
class Rebuild:
    """A version made again from its parents and the journal, and held against the stored one.

    distance  norm of the difference of the two updates, as a share of the layers' norm; 0 if they are
              `identical`, equal to the last bit.
    differs   what of the software differs now from when the version was made, like "torch 2.6 -> 2.7".
    """

    version: Version
    digest: str
    distance: float
    differs: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        return self.digest == self.version.digest


@dataclass(frozen=True, slots=True)
class Erasure:
    """What forgetting came to.

    events    erased, by adapter.
    removed   versions that stood on them, and all that came from those.
    remade    versions that were served, in their order, and the new ones in their place; None where
              nothing was left to learn, or the gate refused what was.
    """

    events: dict[AdapterId, tuple[int, ...]]
    removed: tuple[VersionRef, ...] = ()
    remade: tuple[tuple[VersionRef, VersionRef | None], ...] = ()
