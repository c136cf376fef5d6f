"""How a version does on its probes."""

from dataclasses import dataclass

from ouroboros.domain.verdict import ExampleRef


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """Whether the right answer is given, and the probability of its mean token."""

    said: bool
    likelihood: float


@dataclass(frozen=True, slots=True)
class ProbeScores:
    """A version's answers to probes, by their places, and how far it is from the base on anchors.

    `learned` are the answers to the probes at `since` as they were when each was asked first, by an
    earlier version or by this one.
    """

    digest: str
    places: tuple[ExampleRef, ...] = ()
    answers: tuple[ProbeAnswer, ...] = ()
    drift: float | None = None
    since: tuple[ExampleRef, ...] = ()
    learned: tuple[ProbeAnswer, ...] = ()

    def known(self) -> dict[ExampleRef, ProbeAnswer]:
        return dict(zip(self.places, self.answers, strict=True))

    def first(self) -> dict[ExampleRef, ProbeAnswer]:
        return dict(zip(self.since, self.learned, strict=True))
