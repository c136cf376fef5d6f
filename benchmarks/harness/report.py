"""Claims as a table for people and as JSON for programs."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.harness.claims import Claim

_HEADER = ("claim", "target", "value", "range", "holds")


def table(claims: Sequence[Claim]) -> str:
    """One row a claim, in columns."""
    rows = [_HEADER, *map(_row, claims)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def summary(name: str, claims: Sequence[Claim]) -> str:
    """The last line: how many of the claims with a target hold, and which do not."""
    judged = [c for c in claims if c.target]
    failed = [c.text for c in judged if not c.holds]
    line = f"{name}: {len(judged) - len(failed)} of {len(judged)} claims hold"
    return f"{line}; not: {'; '.join(failed)}" if failed else line


def as_json(name: str, quick: bool, machine: str, claims: Sequence[Claim]) -> dict[str, Any]:
    """The same, to be kept."""
    rows = [{**asdict(c), "target": c.target, "holds": c.holds} for c in claims]
    return {
        "benchmark": name,
        "quick": quick,
        "machine": machine,
        "holds": all(c.holds for c in claims),
        "claims": rows,
    }


def _row(claim: Claim) -> tuple[str, ...]:
    spread, unit = claim.measured, claim.unit
    span = f"{_short(spread.low)} .. {_short(spread.high)}{unit}" if spread.repeats > 1 else ""
    verdict = ("yes" if claim.holds else "NO") if claim.target else ""
    return claim.text, claim.target, f"{_short(spread.median)}{unit}", span, verdict


def _short(value: float) -> str:
    """Three digits that matter, never in exponents for sizes that people read."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
