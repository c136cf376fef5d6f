"""What a table of scores a[i][j], on task j after stage i, comes to."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

Table = Sequence[Sequence[float]]
"""Row i holds the scores on tasks 0..i after stage i, at least."""


@dataclass(frozen=True)
class Summary:
    """In shares, 0 to 1.

    ap          mean over all tasks after the last stage (average performance).
    diagonal    mean score on each task right after its own stage.
    bwt         mean of what later stages added to the score right after a task's own stage; negative
                where they took away (backward transfer).
    forgetting  mean fall from a task's best score, at any stage but the last, to its last.
    fwt         mean of the diagonal over an adapter trained on that task alone (forward transfer).
    """

    ap: float
    diagonal: float
    bwt: float
    forgetting: float
    fwt: float


def summarise(table: Table, alone: Sequence[float]) -> Summary:
    """`alone` are the scores of adapters that learned one task each."""
    last, stages = table[-1], len(table)
    at_own_stage = [table[j][j] for j in range(stages)]
    earlier = range(stages - 1)
    best = [max(table[i][j] for i in range(j, stages - 1)) for j in earlier]
    return Summary(
        ap=fmean(last),
        diagonal=fmean(at_own_stage),
        bwt=fmean(last[j] - at_own_stage[j] for j in earlier) if stages > 1 else 0.0,
        forgetting=fmean(best[j] - last[j] for j in earlier) if stages > 1 else 0.0,
        fwt=fmean(o - a for o, a in zip(at_own_stage, alone, strict=True)),
    )
