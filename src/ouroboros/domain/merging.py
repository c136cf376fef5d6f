"""Recipes for merging adapters into one, and the report of a merge."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from ouroboros.domain.checks import check_int, check_number, validate
from ouroboros.domain.errors import InvalidConfig
from ouroboros.domain.names import AdapterId
from ouroboros.domain.result import Result
from ouroboros.domain.verdict import Verdict


class MergeStrategy(str, Enum):
    """How the parents' updates D_i = scale * B_i A_i are combined, given a weight w_i for each.

    TASK_ARITHMETIC is the default, as it kept most on a real model. AVERAGE and WEIGHTED shrink each
    parent's update to its share, which for different tasks leaves little of any of them.

    AVERAGE          sum D_i / T, for T parents.
    WEIGHTED         sum w_i D_i / sum w_i, weights not negative.
    TASK_ARITHMETIC  sum w_i D_i: adds and subtracts skills (arXiv 2212.04089).
    TSV              sum w_i D_i after the parents' singular directions have been made orthogonal to
                     each other's, so that none writes over another's (arXiv 2412.00081).
    MAGNITUDE        the weighted mean of each parent's largest entries.
    TIES             of each parent's largest entries, those with the majority's sign are averaged
                     (arXiv 2306.01708).
    DARE             the weighted mean after dropping entries at random and scaling the rest up
                     (arXiv 2311.03099).
    DARE_TIES        DARE's dropping, then the majority's sign as in TIES.
    """

    AVERAGE = "average"
    WEIGHTED = "weighted"
    TASK_ARITHMETIC = "task_arithmetic"
    TSV = "tsv"
    MAGNITUDE = "magnitude"
    TIES = "ties"
    DARE = "dare"
    DARE_TIES = "dare_ties"

    @property
    def is_entrywise(self) -> bool:
        """Whether it selects single entries; the others are exact at the sum of the parents' ranks."""
        return self in (
            MergeStrategy.MAGNITUDE,
            MergeStrategy.TIES,
            MergeStrategy.DARE,
            MergeStrategy.DARE_TIES,
        )

    @property
    def divides_updates(self) -> bool:
        """Whether each parent keeps only its share of its update, a third of it for three parents."""
        return self in (MergeStrategy.AVERAGE, MergeStrategy.WEIGHTED)

    @property
    def searches_weights(self) -> bool:
        """Whether weights that are not given are searched on probes, because their size matters."""
        return self in (MergeStrategy.TASK_ARITHMETIC, MergeStrategy.TSV)


class MergeSpace(str, Enum):
    """The space in which entrywise strategies select entries.

    CORE   in the small space that the parents' factors span (arXiv 2509.17786): fast, and without loss.
    DELTA  in the full update of each layer, as published; the result is then cut to a rank.
    """

    CORE = "core"
    DELTA = "delta"


@dataclass(frozen=True, slots=True)
class MergeRecipe:
    """A strategy and its parameters.

    weights  one per parent, in order; None weighs all alike (1 each). Signed but for WEIGHTED.
    density  share of entries that MAGNITUDE, TIES and DARE keep.
    scale    multiplies the merged update.
    space    where entrywise strategies work; the others ignore it.
    seed     decides what DARE drops.
    """

    strategy: MergeStrategy = MergeStrategy.TASK_ARITHMETIC
    weights: tuple[float, ...] | None = None
    density: float = 0.5
    scale: float = 1.0
    space: MergeSpace = MergeSpace.DELTA
    seed: int = 0

    def validate(self) -> Result["MergeRecipe"]:
        return validate(self, self.check)

    def check(self) -> None:
        """Raises `InvalidConfig` if a field is of the wrong type or out of range."""
        if not isinstance(self.strategy, MergeStrategy) or not isinstance(self.space, MergeSpace):
            raise InvalidConfig(
                f"{self.strategy!r} is not a MergeStrategy, or {self.space!r} not a MergeSpace.",
                hint=f"Strategies are {', '.join(s.value for s in MergeStrategy)}.",
            )
        check_number("density", self.density, 1e-3, 1.0)
        check_number("scale", self.scale, -100.0, 100.0)
        check_int("seed", self.seed, 0, 2**63 - 1)
        if self.scale == 0:
            raise InvalidConfig(
                "scale is 0, so the merge would be the bare base.",
                hint="Use 1 to keep the update as it is.",
            )
        if self.weights is None:
            if self.strategy is MergeStrategy.WEIGHTED:
                raise InvalidConfig(
                    "A weighted merge has no weights, and there is no feedback to derive them from.",
                    hint="Give one weight for each adapter, or probes.",
                )
            return
        self._check_weights(self.weights)

    def _check_weights(self, weights: tuple[float, ...]) -> None:
        if self.strategy is MergeStrategy.AVERAGE:
            raise InvalidConfig("An average takes no weights.", hint='Use the strategy "weighted".')
        low = 0.0 if self.strategy is MergeStrategy.WEIGHTED else -100.0
        for i, weight in enumerate(weights, 1):
            check_number(f"weight {i}", weight, low, 100.0)
        if math.fsum(abs(w) for w in weights) < 1e-6:
            raise InvalidConfig("All weights are zero.", hint="Give at least one adapter a weight.")

    def resolve_weights(self, parents: int) -> tuple[float, ...]:
        """One weight per parent; `InvalidConfig` unless there are two parents, each with a weight."""
        if parents < 2:
            raise InvalidConfig(f"There are {parents} adapters to merge.", hint="Name at least two.")
        if self.weights is None:
            return (1.0,) * parents
        if len(self.weights) != parents:
            raise InvalidConfig(
                f"There are {len(self.weights)} weights for {parents} adapters.",
                hint="Give one weight for each adapter, in the same order.",
            )
        return self.weights


@dataclass(frozen=True, slots=True)
class MergeReport:
    """The new adapter of a merge, and how well it represents its parents.

    relative_error  norm of what truncation to `rank` lost, relative to that of the merged update.
    lossless_rank   the rank at which nothing would be lost.
    accuracy        share of the probes answered exactly, by parent and for the new adapter; empty
                    without probes.
    advice          what to do instead, where the merge was made although it did not help.
    weights         of the parents, given or searched; empty if there were none.
    verdict         the gate's judgement.
    """

    id: AdapterId
    rank: int
    relative_error: float
    lossless_rank: int
    accuracy: Mapping[str, float] = field(default_factory=dict)
    advice: str = ""
    weights: tuple[float, ...] = ()
    verdict: Verdict | None = None
