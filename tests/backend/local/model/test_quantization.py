"""A base in fewer bits: it learns like any other, and its adapters fit it alone."""

import importlib.util

import pytest

from ouroboros.backend.base import ScoreRequest, TrainJob
from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.model import quantization as quantized
from ouroboros.backend.local.model.load import load_base
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row
from ouroboros.domain.errors import BaseMismatch, InvalidConfig, MissingExtra
from ouroboros.testing.tiny import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = (Row("where is my parcel?", "shipping"), Row("play some music", "media"))
CONFIG = AdapterConfig(learning_rate=5e-3, target_modules="all-linear")


@pytest.fixture
def folder(tmp_path):
    """Widths in multiples of 64, the block that NF4 shares a scale in."""
    return str(tiny_model(tmp_path, intermediate_size=128))


@pytest.mark.parametrize("form", ["int8", "nf4"])
async def test_an_adapter_learns_on_a_quantised_base(form, folder):
    backend = LocalBackend.open(folder, dtype="float32", threads=1, quantize=form)
    start = await backend.initialize(CONFIG, seed=0)
    before = await _scores(backend, None)
    outcome = await backend.train(TrainJob(start, CONFIG, TrainingConfig(epochs=30), ROWS))
    trained = await _scores(backend, await backend.load(outcome.files))
    assert all(after > 0.5 * base for after, base in zip(trained, before, strict=True))
    assert await _scores(backend, None) == before
    await backend.close()


@pytest.mark.parametrize(("form", "within"), [("int8", 0.1), ("nf4", 0.5)])
async def test_a_quantised_base_is_close_to_the_whole_one(form, within, folder):
    scores = []
    for bits in ("none", form):
        backend = LocalBackend.open(folder, dtype="float32", threads=1, quantize=bits)
        scores.append(await _scores(backend, None))
        await backend.close()
    whole, small = scores
    assert small != whole
    assert small == pytest.approx(whole, rel=within)


def test_the_quantisation_is_part_of_the_fingerprint(folder):
    whole, small = (load_base(folder, quantize=bits).base for bits in ("none", "int8"))
    assert whole.linears == small.linears
    with pytest.raises(BaseMismatch, match="configuration differs"):
        whole.fingerprint.require_equal(small.fingerprint, "it")


def test_without_the_library_the_error_says_what_to_install(folder, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(quantized, "find_spec", lambda n: None if n == "bitsandbytes" else find_spec(n))
    with pytest.raises(MissingExtra, match=r"bitsandbytes.*ouroboros-learning\[quantized\]"):
        load_base(folder, quantize="int8")


def test_an_unknown_form(folder):
    with pytest.raises(InvalidConfig, match="int3"):
        load_base(folder, quantize="int3")


async def _scores(backend: LocalBackend, digest: str | None) -> list[float]:
    requests = [ScoreRequest(row.prompt, row.output or "", digest) for row in ROWS]
    return [score.total for score in await backend.score(requests)]
