"""How a version does on its probes."""

from dataclasses import dataclass

from ouroboros.domain.verdict import Place


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether the right answer is given, and the probability of its mean token."""

    said: bool
    likelihood: float


@dataclass(frozen=True, slots=True)
class Standing:
    """A version's answers to probes, by their places, and how far it is from the base on anchors.

    `learned` are the answers to the probes at `since` as they were when each was asked first, by an
    earlier version or by this one.
    """

    digest: str
    places: tuple[Place, ...] = ()
    answers: tuple[Answer, ...] = ()
    drift: float | None = None
    since: tuple[Place, ...] = ()
    learned: tuple[Answer, ...] = ()

    def known(self) -> dict[Place, Answer]:
        return dict(zip(self.places, self.answers, strict=True))

    def first(self) -> dict[Place, Answer]:
        return dict(zip(self.since, self.learned, strict=True))
