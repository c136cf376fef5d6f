"""A row: one training item, with the loss that it is to be trained with."""

from dataclasses import dataclass, field

from ouroboros.domain.examples import TrainingExample
from ouroboros.domain.losses import Loss, Supervised
from ouroboros.domain.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Row:
    """`output` after `prompt`, judged by `loss`; `rejected` is the worse answer of a pair.

    `weight` scales the row's share of its batch. A row is plain data: it can cross a wire.
    """

    prompt: Prompt
    output: str
    loss: Loss = field(default_factory=Supervised)
    weight: float = 1.0
    rejected: str | None = None

    @classmethod
    def of(cls, example: TrainingExample) -> "Row":
        return cls(example.input, example.output, weight=example.weight)
