"""What the journal records: things that happened to an adapter, in order, never changed."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from ouroboros.domain.examples import TrainingExample


@dataclass(frozen=True, slots=True)
class ExamplesGiven:
    """Training examples were handed over, to be learned by the version that follows."""

    examples: tuple[TrainingExample, ...]
    at: datetime
    kind: Literal["examples"] = field(default="examples", kw_only=True)
