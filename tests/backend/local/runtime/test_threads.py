"""Small passes run on one thread, large ones on all; a step of work starts with all."""

import pytest
import torch

from ouroboros.backend.base import GenerateRequest, ScoreRequest
from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.decoder.decoder import Decoder
from ouroboros.backend.local.model.load import load_base
from ouroboros.backend.local.runtime import threads
from ouroboros.backend.local.runtime.threads import Threads
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.generation import GenerationConfig

MOST = 3


@pytest.fixture(autouse=True)
def _restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def used(monkeypatch) -> list[int]:
    """Threads of every pass over the base."""
    seen: list[int] = []
    for name in ("final_hidden", "decode_step"):
        plain = getattr(Decoder, name)

        def count_threads(self, *arguments, _plain=plain, **named):
            seen.append(torch.get_num_threads())
            return _plain(self, *arguments, **named)

        monkeypatch.setattr(Decoder, name, count_threads)
    return seen


@pytest.mark.parametrize(("small", "expected"), [(600e6, 1), (0.0, MOST)], ids=["small", "large"])
async def test_a_pass_takes_the_threads_that_suit_its_size(
    tiny_folder, monkeypatch, used, small, expected
):
    monkeypatch.setattr(threads, "SMALL_LAYER_PRODUCTS", small)
    backend = LocalBackend(load_base(str(tiny_folder("llama")), "float32"), threads=MOST)
    digest = await backend.load(await backend.initialize(AdapterConfig(), 0))
    await backend.score([ScoreRequest("where is it?", "shipping", digest)])
    await backend.generate([GenerateRequest("hello", GenerationConfig(max_tokens=3), digest)])
    assert len(used) >= 3
    assert set(used) == {expected}
    assert await backend._run_short(torch.get_num_threads) == MOST
    await backend.close()


def test_more_tokens_and_wider_layers_take_all_threads(tiny_folder):
    base = load_base(str(tiny_folder("llama"))).base
    weights = sum(s.inputs * s.outputs for s in base.linears) / base.layers
    enough = int(threads.SMALL_LAYER_PRODUCTS / weights)
    for tokens, expected in ((enough - threads.WEIGHT_FETCH_TOKENS - 1, 1), (enough, MOST)):
        Threads(MOST).set_for_pass(base, tokens)
        assert torch.get_num_threads() == expected
