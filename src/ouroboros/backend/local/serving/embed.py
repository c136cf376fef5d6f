"""Text embeddings from the base's input embeddings: no forward pass, on any base.

A text is the weighted mean of its tokens' embeddings. Vocabularies list frequent tokens first, so each
token is weighted by the logarithm of its index: rare words characterise a text best. The mean is
whitened (Su et al., arXiv 2103.15316) with the covariance of background texts, since directions in which
all texts differ carry little information. The covariance is smoothed, as background texts are few.
Measured in docs/routing.md.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from ouroboros.backend.local.model.load import BaseRuntime
from ouroboros.starter import examples_path

SOFTENING = 0.3
"""Share of the mean variance that is added to the variance of each direction."""


@dataclass(frozen=True)
class Whitening:
    """Whitens x - mean: divides each of K directions by its spread, and all others by `floor`.

    mean [D], directions [K, D] orthonormal, spread [K] standard deviations.
    """

    mean: Float[Tensor, "D"]
    directions: Float[Tensor, "K D"]
    spread: Float[Tensor, "K"]
    floor: float

    @classmethod
    def fit(cls, texts: Float[Tensor, "N D"]) -> "Whitening":
        """Fits the whitening to embeddings of sample texts; softening keeps noise small."""
        mean = texts.mean(0)
        _, values, directions = torch.linalg.svd(texts - mean, full_matrices=False)
        variance = values.square() / max(len(texts) - 1, 1)
        soft = SOFTENING * float(variance.sum()) / texts.shape[1] + 1e-12
        return cls(mean, directions, (variance + soft).sqrt(), soft**0.5)

    def __call__(self, texts: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """Returns the whitened vectors [N, D], of length 1."""
        centred = texts - self.mean
        along = centred @ self.directions.T
        return normalize(
            centred / self.floor + (along / self.spread - along / self.floor) @ self.directions
        )


class BaseTextEmbedder:
    """Embeds texts with the base's input embeddings, as vectors of length 1."""

    def __init__(self, runtime: BaseRuntime) -> None:
        self._tokenizer = runtime.tokenizer.hf_tokenizer
        table: Any = runtime.model.get_input_embeddings()  # type: ignore[operator]
        self._table: Tensor = table.weight
        self._whitening = Whitening.fit(self._pool_texts(_read_background_texts()))

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        return self._whitening(self._pool_texts(texts))

    @torch.no_grad()
    def _pool_texts(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        return torch.stack([self._pool_text(text) for text in texts])

    def _pool_text(self, text: str) -> Float[Tensor, "D"]:
        ids = torch.tensor(self._tokenizer.encode(text, add_special_tokens=False), dtype=torch.long)
        weights = (ids + 2.0).log()
        rows = self._table[ids.to(self._table.device)].float().cpu()
        return weights @ rows / weights.sum().clamp(min=1.0)


def _read_background_texts() -> list[str]:
    """Returns some 300 short messages of bundled tasks; others would give other embeddings."""
    files = [examples_path() / task / "train.jsonl" for task in ("commands", "reviews", "tickets")]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [json.loads(line)["prompt"] for line in lines]
