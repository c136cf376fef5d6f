"""import: adapters of other programs, too large ones cut, those of other bases noted."""

import json
import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from ouroboros.build import open_sync_engine
from ouroboros.domain.weights import AdapterFiles
from ouroboros.lora.peft_files import unpack
from ouroboros.testing.tiny import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")


def save_peft(folder, base: str, **options) -> None:
    """An adapter that PEFT makes on a base, with random factors."""
    torch.manual_seed(0)
    config = LoraConfig(r=256, lora_alpha=256, target_modules="all-linear", **options)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.02)
    model.save_pretrained(str(folder))


@pytest.fixture
def wide(home) -> str:
    """A base on which an adapter of rank 256 exceeds the size limit."""
    return str(tiny_model(home / "wide", hidden_size=512, intermediate_size=2048))


def test_too_large_an_import_is_offered_cut_to_the_rank_that_fits(cli, home, wide):
    save_peft(home / "theirs", wide)
    size = (home / "theirs" / "adapter_model.safetensors").stat().st_size
    assert size > 10 * 2**20
    refused = cli("import", "large", home / "theirs", "--model", wide)
    assert refused.code == 2
    assert f"has {size:,} bytes" in refused.error
    (rank,) = re.findall(r"rank (\d+) fits", refused.error)
    ran = cli("import", "large", home / "theirs", "--shrink", "--model", wide)
    assert ran.code == 0, ran.err
    assert re.search(rf"cut from rank 256 to {rank}, which changes its updates by \d+\.\d%", ran.err)
    assert f"rank {rank}" in ran.out


def test_the_error_of_a_cut_is_the_one_that_is_measured(home, wide):
    save_peft(home / "theirs", wide)
    names = ("adapter_config.json", "adapter_model.safetensors")
    whole = AdapterFiles(*((home / "theirs" / name).read_bytes() for name in names))
    with open_sync_engine(store="memory:", model=wide) as engine:
        cut = engine.shrink_adapter_files(whole).unwrap()
        base = engine.base().unwrap()
    one = unpack(whole, base, len(whole.weights)).weights
    other = unpack(cut.files, base).weights
    lost = sum(float((one[p].delta() - other[p].delta()).norm()) ** 2 for p in one)
    norm = sum(float(low.delta().norm()) ** 2 for low in one.values())
    assert (lost / norm) ** 0.5 == pytest.approx(cut.relative_error, rel=1e-3)


def test_an_import_that_fits_in_bfloat16_keeps_its_rank(cli, home):
    base = str(tiny_model(home / "narrow", hidden_size=512, intermediate_size=1024))
    save_peft(home / "theirs", base)
    ran = cli("import", "large", home / "theirs", "--shrink", "--model", base)
    assert "rounded to bfloat16, in which it fits, which changes its updates by 0.2%" in ran.err
    assert "rank 256" in ran.out


def test_import_notes_that_the_config_names_another_base(cli, home, tiny):
    config = LoraConfig(r=2, target_modules=["q_proj"])
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32), config)
    model.peft_config["default"].base_model_name_or_path = "meta-llama/Llama-3.1-8B-Instruct"
    model.save_pretrained(str(home / "theirs"))
    ran = cli("import", "x", home / "theirs")
    assert ran.code == 0
    assert "made for meta-llama/Llama-3.1-8B-Instruct" in ran.err
    path = home / "theirs" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": tiny.name}))
    assert "made for" not in cli("import", "y", home / "theirs").err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"adapters.safetensors": b"", "adapter_config.json": b"{}"}, "saved by MLX"),
        ({"adapter.gguf": b"GGUF"}, "GGUF file, adapter.gguf, of llama.cpp"),
    ],
)
def test_adapters_of_other_programs_are_recognised_by_name(cli, home, files, message):
    for name, data in files.items():
        (home / name).write_bytes(data)
    assert message in cli("import", "x", home).error


def test_a_gguf_file_is_recognised_by_name(cli, home):
    (home / "adapter.gguf").write_bytes(b"GGUF")
    assert "is a GGUF file" in cli("import", "x", home / "adapter.gguf").error
