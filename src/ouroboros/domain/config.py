"""Configurations: of an adapter's shape, of a training, and of an update from feedback."""

import math
from dataclasses import dataclass, replace

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.checks import check_bool, check_int, check_number, validate
from ouroboros.domain.errors import InvalidConfig
from ouroboros.domain.limits import MAX_RANK
from ouroboros.domain.result import Result
from ouroboros.domain.weights import Precision

AUTO = "auto"
ALL_LINEAR = "all-linear"

ALL, ANSWER = "all", "answer"
"""The values of `AdapterConfig.acts_on`: every token, or the answer's tokens alone."""


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The shape of a LoRA adapter and the rate at which it learns.

    rank            R of the factors A [R, in] and B [out, R], PEFT's `r`; 1 to 256.
    learning_rate   AdamW's peak rate.
    max_steps       the most optimizer steps that one training takes.
    target_modules  names as PEFT has them: "q_proj,v_proj", a tuple of names, "auto" (the query and
                    value projections of the architecture at hand) or "all-linear". A name may be the
                    end of a path, "layers.9.mlp.down_proj": an adapter of the top layers alone trains
                    faster, since the hidden states below them are computed once for all epochs.
    alpha           PEFT's `lora_alpha`: the update BA is multiplied by alpha / rank, or by
                    alpha / sqrt(rank) with `use_rslora` (rank-stabilised LoRA, arXiv 2312.03732).
    precision       how versions are stored: "float32", "bfloat16", "int8" or "int4". "auto" is the
                    first of float32 and bfloat16 that fits 10 MiB; if neither fits, a new adapter is
                    stored as int8, or as int4.
    acts_on         "all" tokens, or the "answer" alone (activated LoRA, arXiv 2504.12397). With
                    "answer" the base alone reads the prompt, up to the invocation tokens, so that the
                    prompt's keys and values are the same for every adapter and are computed once.
    """

    rank: int = 8
    learning_rate: float = 3e-4
    max_steps: int = 1000
    target_modules: str | tuple[str, ...] = "q_proj,v_proj"
    use_rslora: bool = False
    alpha: float = 16.0
    precision: str = AUTO
    acts_on: str = ALL

    @classmethod
    def default(cls) -> "AdapterConfig":
        """Returns rank 8, on the query and value projections."""
        return cls()

    @classmethod
    def low_rank(cls) -> "AdapterConfig":
        """Returns rank 4: the smallest files, for simple tasks."""
        return cls(rank=4)

    @classmethod
    def high_rank(cls) -> "AdapterConfig":
        """Returns rank 16: more capacity, in a larger file."""
        return cls(rank=16)

    @classmethod
    def auto(cls, base: BaseModel, **changes: object) -> "AdapterConfig":
        """A config that learns well on this model: every linear layer, the rate falling with width.

        The rate is 1.28 / width, clamped to [1e-5, 1e-2]: 5e-3 at width 256, 3e-4 at 4096. See
        docs/decisions/0002-auto-rates.md for the measurement. `changes` override single fields.
        """
        rate = min(max(1.28 / base.width, 1e-5), 1e-2)
        config = cls(learning_rate=float(f"{rate:.2g}"), target_modules=ALL_LINEAR)
        return replace(config, **changes)  # type: ignore[arg-type]  # checked by `check` like any other

    @property
    def scale(self) -> float:
        """The factor that BA is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    @property
    def target_names(self) -> tuple[str, ...]:
        """The targets as a tuple: "q_proj,v_proj" is ("q_proj", "v_proj")."""
        names = self.target_modules
        return tuple(n.strip() for n in names.split(",")) if isinstance(names, str) else names

    def validate(self) -> Result["AdapterConfig"]:
        return validate(self, self.check)

    def check(self) -> None:
        """Raises `InvalidConfig` if a field is of the wrong type or out of range."""
        check_int("rank", self.rank, 1, MAX_RANK)
        check_number("learning_rate", self.learning_rate, 1e-8, 1.0)
        check_int("max_steps", self.max_steps, 1, 1_000_000)
        check_number("alpha", self.alpha, 1e-3, 1e4)
        check_bool("use_rslora", self.use_rslora)
        if self.precision not in _PRECISIONS:
            raise InvalidConfig(
                f"precision is {self.precision!r}.", hint=f"Use one of {', '.join(_PRECISIONS)}."
            )
        if self.acts_on not in (ALL, ANSWER):
            raise InvalidConfig(f"acts_on is {self.acts_on!r}.", hint=f'Use "{ALL}" or "{ANSWER}".')
        if not isinstance(self.target_modules, (str, tuple)):
            raise InvalidConfig("target_modules is neither a string nor a tuple.", hint=_TARGETS)
        names = self.target_names
        if not names or not all(isinstance(n, str) and n.strip() for n in names):
            raise InvalidConfig("target_modules is empty, or one of its names is.", hint=_TARGETS)


_PRECISIONS = (AUTO, *(p.value for p in Precision))
_TARGETS = 'Use "auto", "all-linear", or names such as "q_proj,v_proj".'


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """The hyperparameters of one training. The field names are stored with each version.

    batch_size          examples per optimizer step; the gradient does not depend on how they are packed.
    epochs              passes over the examples.
    incremental_update  for a small addition to what the adapter knows: the rate stays at its peak after
                        the warm-up instead of decaying to zero.
    seed                decides the order of the rows; the same seed, rows and machine give the same
                        weights.
    warmup              share of the steps in which the rate rises to its peak.
    max_grad_norm       gradients are clipped to this norm.
    weight_decay        AdamW's decoupled weight decay.
    replay              replayed rows per example in each step; they rehearse what the adapter knows.
    anchors             anchor rows per example in each step; they hold the adapter at its base's
                        behaviour on unrelated text.
    caution             the peak rate is multiplied by this where there is something to replay.
    until               a probability at which to stop early, or None. The training ends before the first
                        step whose rows are all learned: every token of an example and of a replayed row
                        has this probability, and judged answers have moved far enough. Meant for
                        batches that hold all examples.
    learning_rate       the peak rate of this training; None is the adapter's own.
    """

    batch_size: int = 4
    epochs: int = 1
    incremental_update: bool = False
    seed: int = 0
    warmup: float = 0.1
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    replay: float = 2.0
    anchors: float = 0.25
    caution: float = 0.5
    until: float | None = None
    learning_rate: float | None = None

    @classmethod
    def default(cls) -> "TrainingConfig":
        """Returns the defaults of each field."""
        return cls()

    @classmethod
    def fast(cls) -> "TrainingConfig":
        """Returns one epoch of larger batches."""
        return cls(batch_size=8, epochs=1)

    @classmethod
    def thorough(cls) -> "TrainingConfig":
        """Returns three epochs of small batches."""
        return cls(batch_size=4, epochs=3)

    @classmethod
    def auto(cls, examples: int, **changes: object) -> "TrainingConfig":
        """A config for `examples` examples: batches of 8, about 120 optimizer steps, 1 to 10 epochs.

        See docs/decisions/0002-auto-rates.md for the measurement. `changes` override single fields.
        """
        epochs = min(max(math.ceil(120 * 8 / max(examples, 1)), 1), 10)
        return replace(cls(batch_size=8, epochs=epochs), **changes)  # type: ignore[arg-type]

    def count_steps(self, rows: int, max_steps: int) -> int:
        """Optimizer steps for `rows` rows under the adapter's `max_steps`."""
        return min(math.ceil(rows / self.batch_size) * self.epochs, max_steps)

    def validate(self) -> Result["TrainingConfig"]:
        return validate(self, self.check)

    def check(self) -> None:
        """Raises `InvalidConfig` if a field is of the wrong type or out of range."""
        check_int("batch_size", self.batch_size, 1, 4096)
        check_int("epochs", self.epochs, 1, 10_000)
        check_bool("incremental_update", self.incremental_update)
        check_int("seed", self.seed, 0, 2**63 - 1)
        check_number("warmup", self.warmup, 0.0, 1.0)
        check_number("max_grad_norm", self.max_grad_norm, 1e-6, 1e6)
        check_number("weight_decay", self.weight_decay, 0.0, 1.0)
        check_number("replay", self.replay, 0.0, 16.0)
        check_number("anchors", self.anchors, 0.0, 16.0)
        check_number("caution", self.caution, 1e-3, 1.0)
        if self.until is not None:
            check_number("until", self.until, 0.0, 0.999)
        if self.learning_rate is not None:
            check_number("learning_rate", self.learning_rate, 1e-8, 1.0)


@dataclass(frozen=True, slots=True)
class UpdateConfig:
    """The hyperparameters of an update from feedback; the field names are stored with each version.

    An update takes as few and as short steps as it needs, projected away from the directions that
    protected prompts use. The defaults were measured in docs/decisions/0004-one-correction.md.

    step       length of the first step, relative to the norm of the adapter's A factors.
    growth     the most that a step may be longer than the one before it; smaller after an overshoot.
    max_steps  the most steps to take; rows that are not learned by then are reported.
    likely     a wanted output counts as learned once each of its tokens has this probability; above
               one half, greedy decoding generates it.
    ridge      how freely the update may use directions that protected prompts use: 0 is not at all.
    """

    step: float = 0.006
    growth: float = 4.0
    max_steps: int = 60
    likely: float = 0.62
    ridge: float = 0.1

    def check(self) -> None:
        """Raises `InvalidConfig` if a field is of the wrong type or out of range."""
        check_number("step", self.step, 1e-6, 1.0)
        check_number("growth", self.growth, 1.0, 10.0)
        check_int("max_steps", self.max_steps, 1, 10_000)
        check_number("likely", self.likely, 0.5, 0.999)
        check_number("ridge", self.ridge, 1e-6, 1e6)
