"""Our files in PEFT, and PEFT's files here: the same logits, on every architecture we know."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch
from peft import EvaConfig, LoraConfig, PeftModel, get_peft_model, initialize_lora_eva_weights
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from ouroboros.backend.base import ScoreRequest, TrainJob
from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.model.load import load_base
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row
from ouroboros.domain.errors import InvalidAdapter
from ouroboros.domain.weights import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles
from ouroboros.lora.peft_files import pack, unpack
from ouroboros.lora.weights import LoraWeights
from ouroboros.testing.tiny import ARCHITECTURES, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")

PROMPT, OUTPUT = "where is my parcel?", "it has not arrived"


@pytest.fixture(params=ARCHITECTURES)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LocalBackend]:
    backend = LocalBackend(load_base(str(tiny_model(tmp_path / "base", request.param)), "float32"))
    yield backend
    await backend.close()


def write_files(files: AdapterFiles, folder: Path) -> Path:
    folder.mkdir()
    (folder / CONFIG_FILE).write_bytes(files.config)
    (folder / WEIGHTS_FILE).write_bytes(files.weights)
    return folder


def read_files(folder: Path) -> AdapterFiles:
    return AdapterFiles((folder / CONFIG_FILE).read_bytes(), (folder / WEIGHTS_FILE).read_bytes())


def logprobs(model: nn.Module, prompt: tuple[int, ...], output: tuple[int, ...]) -> Tensor:
    """Log-probability of each token of an output, by the model itself."""
    ids = torch.tensor([[*prompt, *output]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(output)[:, None])[:, 0]


async def test_a_trained_step_of_ours_gives_the_same_logits_in_peft(
    backend: LocalBackend, tmp_path: Path
):
    config = AdapterConfig(learning_rate=1e-2, target_modules="all-linear", use_rslora=True)
    start = await backend.initialize(config, 0)
    job = TrainJob(start, config, TrainingConfig(), (Row(PROMPT, OUTPUT),))
    files = (await backend.train(job)).files
    assert files.weights != start.weights

    digest = await backend.load(files)
    requests = [ScoreRequest(PROMPT, OUTPUT, digest), ScoreRequest(PROMPT, OUTPUT)]
    ours, bare = (torch.tensor(s.logprobs) for s in await backend.score(requests))
    sequence = load_base(str(tmp_path / "base"), "float32").tokenizer.encode_pair(PROMPT, OUTPUT)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32).eval()
    theirs = PeftModel.from_pretrained(model, str(write_files(files, tmp_path / "adapter"))).eval()

    torch.testing.assert_close(
        ours, logprobs(theirs, sequence.prompt, sequence.output), atol=1e-5, rtol=1e-5
    )
    assert (ours - bare).abs().max() > 1e-3, "the adapter does something"


PATTERNS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "ranks": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 5}},
    "one layer": {"layers_to_transform": [1]},
    "anchored": {"alpha_pattern": {"^q_proj": 80, "^model.layers.1.self_attn.v_proj": 9}},
    "anchored ranks": {"rank_pattern": {"^v_proj": 1, "^model.layers.0.self_attn.q_proj$": 2}},
    "expressions": {
        "rank_pattern": {r"layers\.0\..*": 3, r"layers\.[1-9]\.self_attn\.[qv]_proj": 2},
        "alpha_pattern": {r"model.layers.\d+.self_attn.(q|k)_proj": 7, ".*": 5},
    },
    "the first that fits": {"alpha_pattern": {"q_proj": 3, "layers.1.self_attn.q_proj": 70}},
}


@pytest.mark.parametrize("options", PATTERNS.values(), ids=PATTERNS)
async def test_peft_adapters_come_here_and_go_back(options: dict, tmp_path: Path):
    folder = tiny_model(tmp_path / "base")
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"], **options)
    theirs = get_peft_model(theirs, config).eval()
    for name, weight in theirs.named_parameters():
        if "lora_" in name:
            nn.init.normal_(weight, std=0.2)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    # PEFT sorts the keys of its patterns when it saves: what counts is how it reads them.
    bare = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(bare, str(tmp_path / "theirs")).eval()

    runtime = load_base(str(folder), "float32")
    backend = LocalBackend(runtime)
    digest = await backend.load(read_files(tmp_path / "theirs"))
    (score,) = await backend.score([ScoreRequest(PROMPT, OUTPUT, digest)])
    await backend.close()
    sequence = runtime.tokenizer.encode_pair(PROMPT, OUTPUT)
    expected = logprobs(theirs, sequence.prompt, sequence.output)
    torch.testing.assert_close(torch.tensor(score.logprobs), expected, atol=1e-5, rtol=1e-5)

    adapter = unpack(read_files(tmp_path / "theirs"), runtime.base)
    repacked = write_files(pack(adapter.weights, adapter.config, runtime.base), tmp_path / "ours")
    bare = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    back = PeftModel.from_pretrained(bare, str(repacked)).eval()
    assert torch.equal(logprobs(back, sequence.prompt, sequence.output), expected)


async def test_an_adapter_that_eva_initialised_comes_here_as_peft_reads_it(tmp_path: Path):
    folder = tiny_model(tmp_path / "base")
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = LoraConfig(
        r=2, init_lora_weights="eva", eva_config=EvaConfig(rho=2.0), target_modules=["q_proj", "v_proj"]
    )
    theirs = get_peft_model(base, config, low_cpu_mem_usage=True)
    batches = [{"input_ids": torch.randint(3, 200, (4, 12))} for _ in range(6)]
    for batch in batches:
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    initialize_lora_eva_weights(theirs, dataloader=batches, show_progress_bar=False)
    for name, weight in theirs.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.2)
    theirs.eval().save_pretrained(str(tmp_path / "theirs"))
    document = json.loads((tmp_path / "theirs" / CONFIG_FILE).read_text())
    assert document["eva_config"]
    document["base_model_name_or_path"] = None
    (tmp_path / "theirs" / CONFIG_FILE).write_text(json.dumps(document))

    runtime = load_base(str(folder), "float32")
    backend = LocalBackend(runtime)
    digest = await backend.load(read_files(tmp_path / "theirs"))
    (score,) = await backend.score([ScoreRequest(PROMPT, OUTPUT, digest)])
    await backend.close()
    sequence = runtime.tokenizer.encode_pair(PROMPT, OUTPUT)
    expected = logprobs(theirs, sequence.prompt, sequence.output)
    torch.testing.assert_close(torch.tensor(score.logprobs), expected, atol=1e-5, rtol=1e-5)


def test_weights_survive_the_journey_bit_for_bit(tmp_path: Path):
    folder = tiny_model(tmp_path / "base", "gpt2")
    base = load_base(str(folder), "float32").base
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = LoraConfig(r=3, target_modules=["c_attn", "c_fc"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(str(tmp_path / "one"))

    one = unpack(read_files(tmp_path / "one"), base)
    reloaded = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        str(write_files(pack(one.weights, one.config, base), tmp_path / "two")),
    )
    reloaded.save_pretrained(str(tmp_path / "three"))
    assert_equal(unpack(read_files(tmp_path / "three"), base).weights, one.weights)


def assert_equal(one: LoraWeights, other: LoraWeights) -> None:
    assert one.keys() == other.keys()
    for path, low in one.items():
        assert torch.equal(low.a, other[path].a)
        assert torch.equal(low.b, other[path].b)
        assert low.scale == other[path].scale


@pytest.mark.parametrize(
    "options", [{"use_dora": True}, {"init_lora_weights": "pissa"}, {"lora_bias": True}]
)
def test_what_peft_can_do_and_we_cannot_is_refused_by_name(options: dict, tmp_path: Path):
    folder = tiny_model(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **options)
    get_peft_model(model, config).save_pretrained(str(tmp_path / "theirs"))
    with pytest.raises(InvalidAdapter, match=next(iter(options))):
        unpack(read_files(tmp_path / "theirs"))


def test_the_documented_architectures_are_those_that_are_tested():
    page = (Path(__file__).parents[2] / "docs" / "files.md").read_text()
    table = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert table == list(ARCHITECTURES)
