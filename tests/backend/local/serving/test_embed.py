"""The base's own embedding: unit vectors, like texts near, nothing of the base changed."""

import numpy as np
import pytest
import torch

from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.serving.embed import Whitening

TEXTS = ["where is my parcel?", "my parcel is late", "play some music", "", "\U0001f40d" * 3]


async def test_vectors_have_length_one_and_do_not_depend_on_their_company(backend):
    together = np.array(await backend.embed(TEXTS))
    alone = np.concatenate([await backend.embed([text]) for text in TEXTS])
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)
    assert together == pytest.approx(alone, abs=1e-5)


async def test_the_starter_sees_what_texts_are_about():
    starter = LocalBackend.open("starter", threads=1)
    late, lost, song = np.array(
        await starter.embed(["my parcel is late", "where is the parcel I ordered?", "play a quiet song"])
    )
    await starter.close()
    assert late @ lost > 0.2 > late @ song


def test_whitening_gives_every_direction_of_the_sample_the_same_spread():
    torch.manual_seed(0)
    sample = torch.randn(4000, 8) * torch.logspace(0, -2, 8) + 5.0
    whitening = Whitening.fit(sample)
    spread = (sample - whitening.mean) @ whitening.directions.T / whitening.spread
    soft = (whitening.spread**2 - whitening.floor**2) / whitening.spread**2
    assert torch.allclose(spread.var(0), soft, rtol=1e-3)
    assert torch.allclose(whitening(sample).norm(dim=1), torch.ones(4000), atol=1e-5)


def test_directions_that_no_ordinary_text_has_count_most():
    sample = torch.randn(100, 8)
    sample[:, 7] = 0.0
    whitened = Whitening.fit(sample)(torch.ones(1, 8) + sample.mean(0))
    assert whitened[0].abs().argmax() == 7
