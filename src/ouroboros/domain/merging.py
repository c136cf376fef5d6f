"""How adapters are merged."""

from enum import Enum


class MergeStrategy(str, Enum):
    """What becomes of the parents' updates D = scale * B A."""

    AVERAGE = "average"
    WEIGHTED = "weighted"
    TASK_ARITHMETIC = "task_arithmetic"
    TIES = "ties"
