"""When a row counts as learned, and the advice if it does not."""

import math
from collections.abc import Sequence

from ouroboros.backend.local.training.rows import StepStats, TokenizedRow
from ouroboros.domain.data import Row

TARGET_SHIFT = math.log(2)
"""Nats that a judged answer's log-probability moves, times the row's weight: half or double."""

PRAISE_CERTAINTY = 0.9
"""A praised answer is learned once all its tokens have this probability."""


SCORE_TOLERANCE = 0.004
"""Distance in nats from its target at which a scored answer counts as learned, at most."""


def is_scored(row: Row) -> bool:
    """Whether a row is one answer with a score, whose log-probability moves by ln 2 times the score."""
    return row.loss.uses_reference and not row.loss.uses_pair


def compute_target(row: TokenizedRow) -> float:
    """Compute the target log-probability, in nats, of a scored answer that has its reference.

    Praise raises tokens to `PRAISE_CERTAINTY` at most: a probability of 0.8 cannot double.
    """
    (reference,), shift = row.reference[:1], TARGET_SHIFT * row.source.weight
    if row.source.output is None:
        return reference - shift
    praise_limit = len(row.sequences[0].output) * math.log(PRAISE_CERTAINTY)
    return min(reference + shift, max(reference, praise_limit))


def compute_tolerance(row: TokenizedRow) -> float:
    """Compute the tolerance, in nats: a tenth of the way to the target, at most `SCORE_TOLERANCE`."""
    return min(SCORE_TOLERANCE, 0.1 * TARGET_SHIFT * row.source.weight)


def measure_gaps(rows: Sequence[TokenizedRow], stats: StepStats, min_probability: float) -> list[float]:
    """Measure how far each row is from being learned, in nats; 0 if it is learned.

    `stats` may have more rows; the first ones count. Each token of a wanted answer needs at least
    `min_probability`.
    """
    judged = zip(rows, stats.totals, stats.min_logprobs, strict=False)
    return [
        max(_measure_gap(row, row_totals, min_logprob, min_probability), 0.0)
        for row, row_totals, min_logprob in judged
    ]


def advise_unlearned(unlearned: int, steps: int) -> str:
    """Returns the advice if rows are still unlearned after this many steps, else an empty text."""
    if not unlearned:
        return ""
    return f"{unlearned} rows were not fully learned within {steps} steps; give that feedback again."


def _measure_gap(
    row: TokenizedRow, totals: Sequence[float], min_logprob: float, min_probability: float
) -> float:
    """Measure one row: an answer becomes likely, a pair moves apart, a judged answer moves."""
    source, target_shift = row.source, TARGET_SHIFT * row.source.weight
    if is_scored(source):
        distance = abs(compute_target(row) - totals[0])
        return distance if distance > compute_tolerance(row) else 0.0
    shifts = [now - before for now, before in zip(totals, row.reference, strict=True)]
    odds_gap = _log_odds(math.log(min_probability)) - _log_odds(min_logprob)
    if source.loss.uses_pair:
        return max(odds_gap, target_shift - (shifts[0] - shifts[1]))
    if not source.loss.accepts_rejected_only:
        return odds_gap
    if source.output is None:
        return target_shift + shifts[0]
    return min(target_shift - shifts[0], _log_odds(math.log(PRAISE_CERTAINTY)) - _log_odds(min_logprob))


def _log_odds(logprob: float) -> float:
    """Compute the log-odds, which change evenly along a step where a probability would saturate."""
    return logprob - math.log(max(-math.expm1(logprob), 1e-12))
