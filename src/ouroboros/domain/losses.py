"""Losses as configs: plain values that name a row's loss, so that a remote backend can be sent them.

The formulas live where the tensors are (`backend.local.training.losses`), in a table keyed by type.
Each type declares what the training loop provides for it:

- `uses_pair`       rows carry a wanted and a rejected output;
- `uses_reference`  log-probabilities under the adapter's previous version are needed;
- `uses_batch_kl`   the batch's KL to that reference is needed, so a batch of one cannot be used;
- `accepts_rejected_only`  rows may carry an unwanted output alone.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from ouroboros.domain.checks import check_number, validate
from ouroboros.domain.errors import InvalidConfig
from ouroboros.domain.result import Result


@dataclass(frozen=True, slots=True)
class Supervised:
    """Cross-entropy on the output's tokens.

    hold    weight of the KL from the adapter as training found it to the adapter, over all tokens but
            the output's own: what it would have said instead keeps its proportions. That is the part of
            learning without forgetting (arXiv 1606.09282) that does not resist the new answer (arXiv
            2203.08679 calls it the non-target part).
    """

    non_target_kl: float = 0.0
    kind: Literal["supervised"] = field(default="supervised", kw_only=True)

    uses_pair: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = False
    uses_batch_kl: ClassVar[bool] = False
    accepts_rejected_only: ClassVar[bool] = False

    def validate(self) -> Result["Supervised"]:
        return validate(self, self.check)

    def check(self) -> None:
        """Raises `InvalidConfig` if a field is out of range."""
        check_number("hold", self.non_target_kl, 0.0, 100.0)


@dataclass(frozen=True, slots=True)
class DPO:
    """Direct preference optimisation (arXiv 2305.18290) with a supervised anchor (arXiv 2404.19733).

    beta    how closely the policy stays at the reference.
    anchor  weight of the cross-entropy per token on the chosen output. Without it DPO may lower the
            chosen output's probability too, as long as the rejected one's falls faster.
    """

    beta: float = 0.1
    anchor: float = 1.0
    kind: Literal["dpo"] = field(default="dpo", kw_only=True)

    uses_pair: ClassVar[bool] = True
    uses_reference: ClassVar[bool] = True
    uses_batch_kl: ClassVar[bool] = False
    accepts_rejected_only: ClassVar[bool] = False

    def validate(self) -> Result["DPO"]:
        return validate(self, self.check)

    def check(self) -> None:
        """Raises `InvalidConfig` if a field is out of range."""
        check_number("beta", self.beta, 1e-4, 100.0)
        check_number("anchor", self.anchor, 0.0, 100.0)


@dataclass(frozen=True, slots=True)
class KTO:
    """Kahneman-Tversky optimisation (arXiv 2402.01306): unpaired rows, against the batch's KL.

    `desirable` and `undesirable` weigh the two kinds of rows; the paper keeps
    desirable * (wanted rows) / (undesirable * (unwanted rows)) in [1, 4/3].
    """

    beta: float = 0.1
    desirable: float = 1.0
    undesirable: float = 1.0
    kind: Literal["kto"] = field(default="kto", kw_only=True)

    uses_pair: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = True
    uses_batch_kl: ClassVar[bool] = True
    accepts_rejected_only: ClassVar[bool] = True

    def validate(self) -> Result["KTO"]:
        return validate(self, self.check)

    def check(self) -> None:
        """Raises `InvalidConfig` if a field is out of range."""
        check_number("beta", self.beta, 1e-4, 100.0)
        check_number("desirable", self.desirable, 0.0, 100.0)
        check_number("undesirable", self.undesirable, 0.0, 100.0)


@dataclass(frozen=True, slots=True)
class APOZero:
    """The unpaired form of APO-zero (arXiv 2408.06266): raises wanted outputs, lowers unwanted ones.

    It needs no KL estimate and so works for a single row. Both directions saturate: the further an
    output is from where the reference had it, the weaker the pull.
    """

    beta: float = 0.1
    kind: Literal["apo_zero"] = field(default="apo_zero", kw_only=True)

    uses_pair: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = True
    uses_batch_kl: ClassVar[bool] = False
    accepts_rejected_only: ClassVar[bool] = True

    def validate(self) -> Result["APOZero"]:
        return validate(self, self.check)

    def check(self) -> None:
        """Raises `InvalidConfig` if a field is out of range."""
        check_number("beta", self.beta, 1e-4, 100.0)


@dataclass(frozen=True, slots=True)
class Unlikelihood:
    """Token unlikelihood (arXiv 1908.04319) that stops: tokens at probability `floor` or below rest."""

    floor: float = 0.05
    kind: Literal["unlikelihood"] = field(default="unlikelihood", kw_only=True)

    uses_pair: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = False
    uses_batch_kl: ClassVar[bool] = False
    accepts_rejected_only: ClassVar[bool] = True

    def validate(self) -> Result["Unlikelihood"]:
        return validate(self, self.check)

    def check(self) -> None:
        """Raises `InvalidConfig` if a field is out of range."""
        check_number("floor", self.floor, 1e-6, 0.99)


@dataclass(frozen=True, slots=True)
class Distillation:
    """Stay as the teacher is: KL(teacher || adapter) at each of the output's tokens.

    The teacher is the adapter as training found it ("parent": learning without forgetting, arXiv
    1606.09282) or the base model ("base"). It is asked once, before the first step.
    """

    teacher: Literal["parent", "base"] = "parent"
    kind: Literal["distil"] = field(default="distil", kw_only=True)

    uses_pair: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = False
    uses_batch_kl: ClassVar[bool] = False
    accepts_rejected_only: ClassVar[bool] = False

    def validate(self) -> Result["Distillation"]:
        return validate(self, self.check)

    def check(self) -> None:
        """Raises `InvalidConfig` if the teacher is neither the parent nor the base."""
        if self.teacher not in ("parent", "base"):
            raise InvalidConfig(f"teacher is {self.teacher!r}.", hint="Use parent or base.")


Loss: TypeAlias = Supervised | DPO | KTO | APOZero | Unlikelihood | Distillation
