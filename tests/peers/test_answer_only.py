"""Answer-only adapters beside PEFT's activated LoRA (alora_invocation_tokens): the same function."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from ouroboros.backend.base import GenerateRequest, ScoreRequest, TrainJob
from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.model.load import load_base
from ouroboros.backend.local.model.tokenizer import TokenizedPair
from ouroboros.backend.local.training.train import schedule_rates, shuffle_rows
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row
from ouroboros.domain.errors import InvalidAdapter
from ouroboros.domain.generation import GenerationConfig
from ouroboros.domain.weights import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles
from ouroboros.lora.peft_files import unpack
from ouroboros.testing.tiny import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = (
    Row("where is my parcel?", "shipping"),
    Row("I was charged twice for one order; what should I do? It was last week, by card", "billing"),
    Row("play some music", "media"),
    Row("set an alarm for seven", "the clock"),
    Row("hello", "front desk"),
)
CONFIG = AdapterConfig(learning_rate=1e-3, target_modules="all-linear", acts_on="answer")
TRAINING = TrainingConfig(batch_size=2, epochs=3)
ORDINARY = AdapterConfig(learning_rate=5e-3, target_modules="auto")


def save_files(files: AdapterFiles, folder: Path) -> Path:
    folder.mkdir()
    (folder / CONFIG_FILE).write_bytes(files.config)
    (folder / WEIGHTS_FILE).write_bytes(files.weights)
    return folder


def load_files(folder: Path) -> AdapterFiles:
    return AdapterFiles((folder / CONFIG_FILE).read_bytes(), (folder / WEIGHTS_FILE).read_bytes())


def load_plain_model(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def load_in_peft(base: Path, folder: Path, is_trainable: bool = False) -> Any:
    return PeftModel.from_pretrained(load_plain_model(base), str(folder), is_trainable=is_trainable)


def output_logits(model: nn.Module, row: TokenizedPair) -> Tensor:
    return model(input_ids=torch.tensor([row.prompt + row.output])).logits[0, len(row.prompt) - 1 : -1]


def output_logprobs(model: nn.Module, row: TokenizedPair) -> Tensor:
    with torch.no_grad():
        return -cross_entropy(output_logits(model, row), torch.tensor(row.output), reduction="none")


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3_text", "gpt2"])
async def test_a_mixed_batch_says_what_peft_says_of_each_alone(architecture: str, tmp_path: Path):
    base = tiny_model(tmp_path / "base", architecture)
    backend = LocalBackend.open(str(base), dtype="float32", threads=1)
    files = []
    for seed, config in enumerate((CONFIG, ORDINARY)):
        job = TrainJob(await backend.initialize(config, seed), config, TRAINING, ROWS)
        files.append((await backend.train(job)).files)
    folders = [save_files(f, tmp_path / str(i)) for i, f in enumerate(files)]
    answer, ordinary = [await backend.load(f) for f in files]
    chosen = [answer, ordinary, None, answer, answer]
    requests = [ScoreRequest(r.prompt, r.output or "", a) for r, a in zip(ROWS, chosen, strict=True)]
    short = GenerationConfig(max_tokens=8)
    scores = await backend.score(requests)
    answers = await backend.generate([GenerateRequest(r.prompt, short, r.adapter) for r in requests])
    await backend.close()

    runtime = load_base(str(base), "float32")
    models = {
        None: load_plain_model(base),
        answer: load_in_peft(base, folders[0]),
        ordinary: load_in_peft(base, folders[1]),
    }
    for request, score, generation in zip(requests, scores, answers, strict=True):
        row = runtime.tokenizer.encode_pair(request.prompt, request.output)
        theirs = output_logprobs(models[request.adapter], row)
        torch.testing.assert_close(torch.tensor(score.logprobs), theirs, atol=1e-5, rtol=1e-5)
        prompt = torch.tensor([row.prompt])
        out = models[request.adapter].generate(input_ids=prompt, max_new_tokens=8, do_sample=False)
        assert generation.tokens == tuple(out[0, prompt.shape[1] :].tolist())
    row = runtime.tokenizer.encode_pair(ROWS[-1].prompt, ROWS[-1].output or "")
    bare = output_logprobs(models[None], row)
    assert (torch.tensor(scores[-1].logprobs) - bare).abs().max() > 1e-3, "the adapter does something"


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
async def test_a_training_gives_the_weights_of_a_plain_peft_loop(architecture: str, tmp_path: Path):
    base = tiny_model(tmp_path / "base", architecture)
    backend = LocalBackend.open(str(base), dtype="float32", threads=1)
    start = await backend.initialize(CONFIG, seed=0)
    ours = unpack((await backend.train(TrainJob(start, CONFIG, TRAINING, ROWS))).files).weights
    await backend.close()
    theirs = unpack(train_plain_loop(base, save_files(start, tmp_path / "start"))).weights
    first = unpack(start).weights
    for path, low in ours.items():
        torch.testing.assert_close(low.a, theirs[path].a, atol=1e-4, rtol=0)
        torch.testing.assert_close(low.b, theirs[path].b, atol=1e-4, rtol=0)
        assert (low.b - first[path].b).abs().max() > 1e-3


def train_plain_loop(base: Path, start: Path) -> AdapterFiles:
    """The same training as anyone would write it: PEFT, torch's AdamW, one row at a time."""
    model = load_in_peft(base, start, is_trainable=True)
    codec = load_base(str(base), "float32").tokenizer
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, weight_decay=0.0)
    plan = list(shuffle_rows(len(ROWS), TRAINING, CONFIG.max_steps))
    for chosen, rate in zip(
        plan, schedule_rates(len(plan), TRAINING, CONFIG.learning_rate), strict=True
    ):
        rows = [codec.encode_pair(ROWS[i].prompt, ROWS[i].output or "") for i in chosen]
        tokens = sum(len(row.output) for row in rows)
        for row in rows:
            (
                cross_entropy(output_logits(model, row), torch.tensor(row.output), reduction="sum")
                / tokens
            ).backward()
        torch.nn.utils.clip_grad_norm_(weights, TRAINING.max_grad_norm)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(str(start))
    return load_files(start)


def create_peft_adapter(base: Path, folder: Path, tokens: list[int]) -> tuple[Any, AdapterFiles]:
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", alora_invocation_tokens=tokens
    )
    model = get_peft_model(load_plain_model(base), config).eval()
    for name, weight in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(weight, std=0.2)
    model.save_pretrained(str(folder))
    return model, load_files(folder)


async def test_an_activated_lora_of_peft_comes_here_as_an_answer_only_adapter(tmp_path: Path):
    base = tiny_model(tmp_path / "base")
    runtime = load_base(str(base), "float32")
    model, files = create_peft_adapter(base, tmp_path / "theirs", list(runtime.base.invocation_tokens))
    backend = LocalBackend(runtime)
    assert (await backend.validate(files)).acts_on == "answer"
    digest = await backend.load(files)
    (score,) = await backend.score([ScoreRequest(ROWS[1].prompt, "billing", digest)])
    await backend.close()
    theirs = output_logprobs(model, runtime.tokenizer.encode_pair(ROWS[1].prompt, "billing"))
    torch.testing.assert_close(torch.tensor(score.logprobs), theirs, atol=1e-5, rtol=1e-5)


async def test_one_that_waits_for_other_tokens_is_refused_by_name(tmp_path: Path):
    base = tiny_model(tmp_path / "base")
    _, files = create_peft_adapter(base, tmp_path / "theirs", [5, 6, 7])
    backend = LocalBackend.open(str(base), dtype="float32", threads=1)
    with pytest.raises(InvalidAdapter, match=r"alora_invocation_tokens are \[5, 6, 7\]"):
        await backend.validate(files)
    document = json.loads(files.config)
    for broken in ([], "x", [1.5], [-1], [True]):
        config = json.dumps({**document, "alora_invocation_tokens": broken}).encode()
        with pytest.raises(InvalidAdapter, match="alora_invocation_tokens"):
            await backend.validate(AdapterFiles(config, files.weights))
    await backend.close()
