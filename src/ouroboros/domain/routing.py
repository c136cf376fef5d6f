"""Routing: what is stored of each adapter to recognise its task by, and the result of a search."""

from dataclasses import dataclass
from typing import TypeAlias

from ouroboros.domain.names import AdapterId

Vector: TypeAlias = tuple[float, ...]
"""The embedding of a text [D]; two texts are as similar as the cosine of their vectors."""


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """An adapter as a candidate for a prompt.

    similarity  cosine of the prompt to the nearest centroid of the adapter's examples, -1 to 1.
    needed      the threshold: nearly all of the adapter's examples reach it, and few unrelated texts do.
    """

    adapter: AdapterId
    similarity: float
    needed: float

    @property
    def sure(self) -> bool:
        """Whether the similarity reaches the threshold."""
        return self.similarity >= self.needed


@dataclass(frozen=True, slots=True)
class AdapterProfile:
    """The centroids of an adapter's examples (see `learning.routing.centroids`) as they are stored.

    of       identifies the version and the embedding that they were computed from.
    needed   the threshold on the similarity.
    count    how many centroids there are.
    vectors  the centroids as 16-bit floats [count, D], in base64.
    """

    of: str
    needed: float
    count: int
    vectors: str
