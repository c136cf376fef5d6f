"""Claims, and the measurements they are judged by."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one quantity: their median and their range."""

    median: float
    low: float
    high: float
    repeats: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        ordered = sorted(values)
        if not ordered:
            raise ValueError("A spread needs at least one measurement.")
        return cls(median(ordered), ordered[0], ordered[-1], len(ordered))


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round, above / below: arms that took turns are compared within their round."""
    return [a / b for a, b in zip(above, below, strict=True)]


@dataclass(frozen=True)
class Claim:
    """A sentence that a measurement can refute: its median must stay within the bounds.

    Without a bound it is a figure shown for comparison, and holds.
    """

    text: str
    measured: Spread
    at_most: float | None = None
    at_least: float | None = None
    unit: str = ""

    @property
    def target(self) -> str:
        bounds = [("<=", self.at_most), (">=", self.at_least)]
        return " ".join(f"{sign} {bound:g}{self.unit}" for sign, bound in bounds if bound is not None)

    @property
    def holds(self) -> bool:
        value = self.measured.median
        return (self.at_most is None or value <= self.at_most) and (
            self.at_least is None or value >= self.at_least
        )
