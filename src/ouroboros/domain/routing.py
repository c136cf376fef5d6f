"""Which adapter knows a task: what is kept of each to tell, and what a search finds."""

from dataclasses import dataclass
from typing import TypeAlias

from ouroboros.domain.names import AdapterId

Vector: TypeAlias = tuple[float, ...]
"""What a text is about, [D]. Two texts are as near as the cosine of their vectors."""


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """An adapter, how near a text is to what it learned, and how near it would have to be.

    similarity  cosine to the nearest class of what the adapter learned, -1 to 1.
    needed      what nearly all of the adapter's own examples reach, and few unrelated texts do.
    """

    adapter: AdapterId
    similarity: float
    needed: float

    @property
    def sure(self) -> bool:
        """Whether the adapter knows the task, as far as one can tell from the text."""
        return self.similarity >= self.needed


@dataclass(frozen=True, slots=True)
class AdapterProfile:
    """A portrait of an adapter (see `learning.portraits`) as it is stored.

    `of` names the version and the embedding it was drawn from; `vectors` are `count` rows of 16-bit
    floats in base64.
    """

    of: str
    needed: float
    count: int
    vectors: str
