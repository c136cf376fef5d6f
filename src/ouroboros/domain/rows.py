"""A row: one training item, with the loss that it is to be trained with."""

from dataclasses import dataclass, field

from ouroboros.domain.errors import InvalidExample
from ouroboros.domain.examples import TrainingExample
from ouroboros.domain.losses import Loss, Supervised
from ouroboros.domain.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Row:
    """After `prompt`, `output` is wanted and `rejected` is not; `loss` says what follows from that.

    A pair has both. A row with `rejected` alone is an answer known only to be wrong: it has no output,
    so that nothing can train towards it by mistake. `weight` scales the row's share of its batch. A row
    is plain data: it can cross a wire.
    """

    prompt: Prompt
    output: str | None
    loss: Loss = field(default_factory=Supervised)
    weight: float = 1.0
    rejected: str | None = None

    @classmethod
    def of(cls, example: TrainingExample) -> "Row":
        return cls(example.input, example.output, weight=example.weight)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The one or two outputs that training reads, the wanted one first."""
        return tuple(text for text in (self.output, self.rejected) if text is not None)

    def check(self) -> None:
        """Raise `InvalidExample` unless the row has the outputs that its loss is defined for."""
        self.loss.check()
        wanted, unwanted = self.output is not None, self.rejected is not None
        if self.loss.uses_pair:
            fits = wanted and unwanted
        else:
            fits = wanted != unwanted and (wanted or self.loss.takes_unwanted)
        if not fits:
            raise InvalidExample(
                f"A row with {'an' if wanted else 'no'} output and {'a' if unwanted else 'no'} rejected"
                f" answer cannot be trained with the loss {self.loss.kind}.",
                hint="Pairs need both; other losses take one; supervised training needs the output.",
            )
