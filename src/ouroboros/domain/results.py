"""What evaluations, comparisons, rebuilds and erasures return."""

from dataclasses import dataclass, field

from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Version


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a version answers examples greedily.

    An answer is right if greedy decoding gives exactly the tokens of the expected output, and then ends.
    The gate and the probes compare in the same way.

    right         whether each answer is right, in the order of the examples.
    mean_logprob  mean log-probability per token of the expected outputs, in nats.
    answers       the answers: the expected output where it is right, and otherwise the generated text.
    """

    right: tuple[bool, ...]
    mean_logprob: float
    answers: tuple[str, ...]

    @property
    def rows(self) -> int:
        """How many rows were evaluated."""
        return len(self.right)

    @property
    def correct(self) -> int:
        """How many answers are right."""
        return sum(self.right)

    @property
    def accuracy(self) -> float:
        """The share of right answers, from 0 to 1."""
        return self.correct / self.rows


@dataclass(frozen=True, slots=True)
class ComparedAnswers:
    """One probe with its expected answer, and the answers of two versions."""

    prompt: str
    expected: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of two versions, in their weights and in their answers to the same prompts.

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
    """A version made again from its parents and the journal, compared with the stored one.

    distance  norm of the difference of the two updates, as a share of the layers' norm; 0 if they are
              `identical`, equal to the last bit.
    differs   what has changed since the version was made: releases of software, like "torch 2.6 -> 2.7",
              and the date, if the chat template writes it into prompts.
    """

    version: Version
    digest: str
    distance: float
    differs: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        """Whether the rebuilt weights are the stored ones, byte for byte."""
        return self.digest == self.version.digest


@dataclass(frozen=True, slots=True)
class Erasure:
    """The result of forgetting events.

    events    the erased events, by adapter.
    removed   the versions that may have learned from them, with all their descendants.
    remade    the served versions among those, in their order, each with its replacement; None where
              nothing remained to learn, or the gate refused the replacement.
    pending   adapters whose versions wait to be remade, each with the kind of error that stopped it,
              like "base_mismatch"; an earlier version is served, or none. `forget_events` tries again.
    """

    events: dict[AdapterId, tuple[int, ...]]
    removed: tuple[VersionRef, ...] = ()
    remade: tuple[tuple[VersionRef, VersionRef | None], ...] = ()
    pending: dict[AdapterId, str] = field(default_factory=dict)
