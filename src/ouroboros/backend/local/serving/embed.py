"""Texts as vectors, from the base's own input embeddings: no forward pass, on any base.

A text is the mean of its tokens' embeddings. Vocabularies list frequent tokens first, so a token counts
by the logarithm of its place: rare words say more of a text. The mean is whitened (Su et al.,
arXiv 2103.15316) by how ordinary texts vary, softened because they are few: directions in which any two
texts differ say little. Measured in docs/routing.md.
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
"""Of the mean variance, added to each direction's before it is divided away."""


@dataclass(frozen=True)
class Whitening:
    """x - mean, with each of K directions divided by its spread and all others by `floor`.

    mean [D], directions [K, D] orthonormal, spread [K].
    """

    mean: Float[Tensor, "D"]
    directions: Float[Tensor, "K D"]
    spread: Float[Tensor, "K"]
    floor: float

    @classmethod
    def of(cls, texts: Float[Tensor, "N D"]) -> "Whitening":
        mean = texts.mean(0)
        _, values, directions = torch.linalg.svd(texts - mean, full_matrices=False)
        variance = values.square() / max(len(texts) - 1, 1)
        soft = SOFTENING * float(variance.sum()) / texts.shape[1] + 1e-12
        return cls(mean, directions, (variance + soft).sqrt(), soft**0.5)

    def __call__(self, texts: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """Unit vectors."""
        centred = texts - self.mean
        along = centred @ self.directions.T
        return normalize(
            centred / self.floor + (along / self.spread - along / self.floor) @ self.directions
        )


class Embedding:
    """The base's way of seeing texts."""

    def __init__(self, runtime: BaseRuntime) -> None:
        self._tokenizer = runtime.tokenizer.hf_tokenizer
        table: Any = runtime.model.get_input_embeddings()  # type: ignore[operator]
        self._table: Tensor = table.weight
        self._whitening = Whitening.of(self._pooled(_ordinary_texts()))

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        return self._whitening(self._pooled(texts))

    @torch.no_grad()
    def _pooled(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        return torch.stack([self._mean(text) for text in texts])

    def _mean(self, text: str) -> Float[Tensor, "D"]:
        ids = torch.tensor(self._tokenizer.encode(text, add_special_tokens=False), dtype=torch.long)
        weights = (ids + 2.0).log()
        rows = self._table[ids.to(self._table.device)].float().cpu()
        return weights @ rows / weights.sum().clamp(min=1.0)


def _ordinary_texts() -> list[str]:
    """Some 300 short messages of the bundled example tasks; other texts would give other embeddings."""
    files = [examples_path() / task / "train.jsonl" for task in ("commands", "reviews", "tickets")]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [json.loads(line)["prompt"] for line in lines]
