"""A version's answers to its probes, as they are stored."""

from dataclasses import dataclass

from ouroboros.domain.verdict import ExampleRef


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """One answer to a probe, as stored.

    said        whether the version generates the right answer.
    likelihood  geometric mean of the probabilities of the right answer's tokens.
    """

    said: bool
    likelihood: float


@dataclass(frozen=True, slots=True)
class ProbeScores:
    """A version's answers to its probes, and its drift from the base on the anchors.

    digest   of the version's files.
    places   where the probes stand in the journal; `answers` are this version's, in the same order.
    drift    distance from the base on the anchors, in nats per token; None if it was not measured.
    since    the probes that an earlier version or this one has answered; `learned` are the first answers
             to them, in the same order, to compare later versions with.
    """

    digest: str
    places: tuple[ExampleRef, ...] = ()
    answers: tuple[ProbeAnswer, ...] = ()
    drift: float | None = None
    since: tuple[ExampleRef, ...] = ()
    learned: tuple[ProbeAnswer, ...] = ()

    def answers_by_probe(self) -> dict[ExampleRef, ProbeAnswer]:
        """Returns this version's answer to each probe, by the probe's place in the journal."""
        return dict(zip(self.places, self.answers, strict=True))

    def learned_by_probe(self) -> dict[ExampleRef, ProbeAnswer]:
        """Returns the first answer to each probe that was ever answered, by its place."""
        return dict(zip(self.since, self.learned, strict=True))
