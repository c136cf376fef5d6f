"""Beside PEFT, number by number: logits of trained adapters, mixed batches, and whole training runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel

from ouroboros.backend.base import TrainJob
from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.forward.packing import compute_output_logits
from ouroboros.backend.local.model.load import BaseRuntime, load_base
from ouroboros.backend.local.model.tokenizer import TokenizedPair
from ouroboros.backend.local.training.train import schedule_rates, shuffle_rows
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row
from ouroboros.domain.weights import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.inject import inject
from ouroboros.lora.peft_files import unpack
from ouroboros.testing.tiny import tiny_model

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")

ARCHITECTURES = ["llama", "qwen3", "gemma3_text", "mistral", "phi3", "gpt2", "gpt_neox", "opt"]
ROWS = (
    Row("where is my parcel?", "shipping"),
    Row("I was charged twice for one order; what should I do? It was last week, by card", "billing"),
    Row("play some music", "media"),
    Row("set an alarm for seven", "the clock"),
    Row("hello", "front desk"),
    Row("please, where is it? it has not arrived", "shipping"),
)
CONFIG = AdapterConfig(learning_rate=5e-3, target_modules="all-linear")


@dataclass(frozen=True)
class Trained:
    """A tiny base, and two adapters that were trained on it and saved."""

    base: Path
    adapters: tuple[Path, Path]


@pytest.fixture(params=ARCHITECTURES)
async def trained(request: pytest.FixtureRequest, tmp_path: Path) -> Trained:
    base = tiny_model(tmp_path / "base", request.param)
    backend = LocalBackend.open(str(base), dtype="float32", threads=1)
    folders = []
    for seed, rows in enumerate([ROWS[:3], ROWS[3:]]):
        start = await backend.initialize(CONFIG, seed)
        outcome = await backend.train(TrainJob(start, CONFIG, TrainingConfig(epochs=3), rows))
        folders.append(_save(outcome.files, tmp_path / f"adapter-{seed}"))
    await backend.close()
    return Trained(base, (folders[0], folders[1]))


def test_a_mixed_batch_has_the_logits_that_peft_gives_each_row_alone(trained: Trained) -> None:
    runtime = load_base(str(trained.base), "float32")
    first, second = (_load_banked(runtime, folder) for folder in trained.adapters)
    sequences = [_tokenize_whole(runtime, row) for row in ROWS[:4]]
    mixed = _batch_logits(runtime, sequences, [first, second, None, first])
    for ours, sequence, folder in zip(
        mixed, sequences, [*trained.adapters, None, trained.adapters[0]], strict=True
    ):
        theirs = _peft_logits(trained.base, folder, sequence)
        assert theirs.shape == ours.shape
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_adapters_of_that_batch_differ_from_the_base_and_from_each_other(trained: Trained) -> None:
    sequence = _tokenize_whole(load_base(str(trained.base), "float32"), ROWS[0])
    base, first, second = (_peft_logits(trained.base, f, sequence) for f in (None, *trained.adapters))
    assert min((base - first).abs().max(), (base - second).abs().max()) > 0.05
    assert (first - second).abs().max() > 0.05


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("use_rslora", [False, True])
async def test_a_training_gives_the_weights_of_a_plain_peft_loop(
    architecture: str, use_rslora: bool, tmp_path: Path
) -> None:
    base = tiny_model(tmp_path / "base", architecture)
    config = AdapterConfig(learning_rate=1e-3, target_modules="all-linear", use_rslora=use_rslora)
    training = TrainingConfig(batch_size=4, epochs=4, weight_decay=0.1)
    backend = LocalBackend.open(str(base), dtype="float32", threads=1)
    start = await backend.initialize(config, seed=0)
    files = (await backend.train(TrainJob(start, config, training, ROWS))).files
    await backend.close()
    ours = unpack(files).weights
    theirs = unpack(_train_plain_loop(base, _save(start, tmp_path / "start"), config, training)).weights
    first = unpack(start).weights
    assert ours.keys() == theirs.keys()
    for path, low in ours.items():
        torch.testing.assert_close(low.a, theirs[path].a, atol=1e-4, rtol=0)
        torch.testing.assert_close(low.b, theirs[path].b, atol=1e-4, rtol=0)
        assert (low.a - first[path].a).abs().max() > 1e-3 < (low.b - first[path].b).abs().max()


def _train_plain_loop(
    base: Path, start: Path, config: AdapterConfig, training: TrainingConfig
) -> AdapterFiles:
    """The same training as anyone would write it: PEFT, torch's AdamW, one row at a time."""
    model = _peft_model(base, start, is_trainable=True)
    codec = load_base(str(base), "float32").tokenizer
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, weight_decay=training.weight_decay)
    plan = list(shuffle_rows(len(ROWS), training, config.max_steps))
    for chosen, rate in zip(
        plan, schedule_rates(len(plan), training, config.learning_rate), strict=True
    ):
        rows = [codec.encode_pair(ROWS[i].prompt, ROWS[i].output or "") for i in chosen]
        tokens = sum(len(row.output) for row in rows)
        for row in rows:
            (_negative_log_likelihood(model, row) / tokens).backward()
        torch.nn.utils.clip_grad_norm_(weights, training.max_grad_norm)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(str(start))
    return AdapterFiles((start / CONFIG_FILE).read_bytes(), (start / WEIGHTS_FILE).read_bytes())


def _negative_log_likelihood(model: PreTrainedModel, row: TokenizedPair) -> Tensor:
    logits = model(torch.tensor([row.prompt + row.output])).logits[0, len(row.prompt) - 1 : -1]
    return cross_entropy(logits, torch.tensor(row.output), reduction="sum")


def _save(files: AdapterFiles, folder: Path) -> Path:
    folder.mkdir()
    (folder / CONFIG_FILE).write_bytes(files.config)
    (folder / WEIGHTS_FILE).write_bytes(files.weights)
    return folder


def _tokenize_whole(runtime: BaseRuntime, row: Row) -> TokenizedPair:
    """A row whose every token but the first is to be predicted."""
    pair = runtime.tokenizer.encode_pair(row.prompt, row.output or "")
    ids = pair.prompt + pair.output
    return TokenizedPair(ids[:1], ids[1:])


def _load_banked(runtime: BaseRuntime, folder: Path) -> BankedAdapter:
    files = AdapterFiles((folder / CONFIG_FILE).read_bytes(), (folder / WEIGHTS_FILE).read_bytes())
    adapter = BankedAdapter(unpack(files, runtime.base).weights)
    inject(runtime.model, adapter.paths, runtime.bank)
    return adapter


def _batch_logits(
    runtime: BaseRuntime, sequences: Sequence[TokenizedPair], adapters: Sequence[BankedAdapter | None]
) -> list[Tensor]:
    """What log-probabilities of a batch are computed from, sequence by sequence."""
    with torch.no_grad():
        logits, _ = compute_output_logits(runtime, sequences, adapters)
    return list(logits.split([len(s.output) for s in sequences]))


def _peft_logits(base: Path, adapter: Path | None, sequence: TokenizedPair) -> Tensor:
    model = _load_plain_model(base) if adapter is None else _peft_model(base, adapter)
    with torch.no_grad():
        return model(torch.tensor([sequence.prompt + sequence.output])).logits[0, :-1]


def _load_plain_model(base: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def _peft_model(base: Path, adapter: Path, is_trainable: bool = False) -> PreTrainedModel:
    return peft.PeftModel.from_pretrained(
        _load_plain_model(base), str(adapter), is_trainable=is_trainable
    )
