"""The real model beside PEFT: logits, losses and one optimizer step on SmolLM2-135M-Instruct."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from ouroboros.backend.base import ScoreRequest, TrainJob
from ouroboros.backend.local import LocalBackend
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row
from ouroboros.domain.weights import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles
from ouroboros.lora.peft_files import unpack

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")

CONFIG = AdapterConfig(learning_rate=1e-3, target_modules="all-linear")
STEP = TrainingConfig(batch_size=4, epochs=1, warmup=0.0, max_grad_norm=1e9)
ROWS = (
    Row("Where is my order? The app has said out for delivery since Monday.", "parcel"),
    Row("I was charged twice for one order; what should I do?", "ledger"),
    Row("Your site looks broken in Safari.", "wrench"),
    Row("hello", "front desk"),
)


@pytest.fixture(scope="module")
def plain(smollm2: Path):
    return AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()


@pytest.fixture
async def backend(smollm2: Path):
    backend = LocalBackend.open(str(smollm2), dtype="float32", threads=1)
    yield backend
    await backend.close()


def save(files: AdapterFiles, folder: Path) -> Path:
    folder.mkdir()
    (folder / CONFIG_FILE).write_bytes(files.config)
    (folder / WEIGHTS_FILE).write_bytes(files.weights)
    return folder


async def test_one_step_and_its_losses_are_those_of_peft(backend, plain, tmp_path):
    # 1. One step of ours from a start that PEFT reads, too.
    start = await backend.initialize(CONFIG, seed=0)
    outcome = await backend.train(TrainJob(start, CONFIG, STEP, ROWS))
    folder = save(start, tmp_path / "start")
    model = peft.PeftModel.from_pretrained(plain, str(folder), is_trainable=True)

    # 2. The same step by torch's AdamW.
    tokenizer = backend._runtime.tokenizer
    sequences = [tokenizer.encode_pair(row.prompt, row.output or "") for row in ROWS]
    tokens = sum(len(sequence.output) for sequence in sequences)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=CONFIG.learning_rate, weight_decay=STEP.weight_decay)
    losses = [negative_log_likelihood(model, sequence) for sequence in sequences]
    total = torch.stack(losses).sum() / tokens
    total.backward()
    optimizer.step()
    assert outcome.report.first_loss == pytest.approx(total.item(), abs=1e-4)

    # 3. Weights. B starts at zero, so Adam's first step of it is the rate's sign of the gradient.
    model.save_pretrained(str(folder))
    theirs = unpack(
        AdapterFiles((folder / CONFIG_FILE).read_bytes(), (folder / WEIGHTS_FILE).read_bytes())
    )
    ours = unpack(outcome.files).weights
    assert ours.keys() == theirs.weights.keys()
    agreeing = total_weights = 0
    for path, low in ours.items():
        close = (low.b - theirs.weights[path].b).abs() < 1e-5
        agreeing, total_weights = agreeing + int(close.sum()), total_weights + close.numel()
        torch.testing.assert_close(low.a, theirs.weights[path].a, atol=1e-4, rtol=0)
    assert agreeing / total_weights > 0.999

    # 4. Log-probabilities with the adapter that came out.
    digest = await backend.load(outcome.files)
    requests = [ScoreRequest(row.prompt, row.output or "", digest) for row in ROWS]
    scores = await backend.score(requests)
    trained = save(outcome.files, tmp_path / "trained")
    reloaded = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(plain.config._name_or_path, dtype=torch.float32),
        str(trained),
    ).eval()
    with torch.no_grad():
        expected = [-negative_log_likelihood(reloaded, sequence).item() for sequence in sequences]
    assert [sum(score.logprobs) for score in scores] == pytest.approx(expected, abs=1e-3)


def negative_log_likelihood(model, sequence) -> torch.Tensor:
    ids = torch.tensor([sequence.prompt + sequence.output])
    logits = model(ids).logits[0, len(sequence.prompt) - 1 : -1]
    return cross_entropy(logits, torch.tensor(sequence.output), reduction="sum")
