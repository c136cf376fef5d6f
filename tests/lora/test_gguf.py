"""GGUF files, read by the format's own package."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from torch import Tensor

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.errors import InvalidAdapter
from ouroboros.lora.gguf import to_gguf
from ouroboros.lora.weights import LoraWeights

Weights = Callable[..., LoraWeights]
HEADS = 4


@pytest.fixture
def rotary(base: BaseModel) -> BaseModel:
    return replace(base, heads=HEADS)


def read_gguf(raw: bytes, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts and tensors that the package finds in a file."""
    path = folder / "adapter.gguf"
    path.write_bytes(raw)
    reader = gguf.GGUFReader(path)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    return facts, {t.name: torch.tensor(t.data) for t in reader.tensors}


@pytest.mark.parametrize("rslora", [False, True])
def test_the_package_reads_what_was_written(
    rotary: BaseModel, random_weights: Weights, tmp_path: Path, rslora: bool
):
    config = AdapterConfig(rank=4, alpha=6.0, use_rslora=rslora, target_modules="v_proj,down_proj")
    weights = random_weights(config)
    facts, tensors = read_gguf(to_gguf(weights, rotary), tmp_path)
    assert facts["general.type"] == "adapter"
    assert facts["adapter.type"] == "lora"
    assert facts["general.architecture"] == "llama"
    alpha = facts["adapter.lora.alpha"]
    assert alpha == pytest.approx(12.0 if rslora else 6.0), "alpha sqrt(rank) stands for rsLoRA"
    for layer in range(2):
        for path_suffix, name in (("self_attn.v_proj", "attn_v"), ("mlp.down_proj", "ffn_down")):
            low = weights[f"model.layers.{layer}.{path_suffix}"]
            stem = f"blk.{layer}.{name}.weight.lora_"
            update = alpha / 4 * tensors[f"{stem}b"] @ tensors[f"{stem}a"]
            torch.testing.assert_close(update, low.delta(), atol=1e-5, rtol=1e-5)


def test_layers_of_other_scale_are_scaled_in_b(
    rotary: BaseModel, random_weights: Weights, tmp_path: Path
):
    weights = dict(random_weights(AdapterConfig(rank=4, target_modules="v_proj")))
    path = "model.layers.0.self_attn.v_proj"
    weights[path] = replace(weights[path], scale=0.5)
    facts, tensors = read_gguf(to_gguf(weights, rotary), tmp_path)
    stem = "blk.0.attn_v.weight.lora_"
    update = facts["adapter.lora.alpha"] / 4 * tensors[f"{stem}b"] @ tensors[f"{stem}a"]
    torch.testing.assert_close(update, weights[path].delta(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("projection", "name"), [("q_proj", "attn_q"), ("k_proj", "attn_k")])
def test_queries_and_keys_are_interleaved_for_llama_alone(
    rotary: BaseModel, random_weights: Weights, tmp_path: Path, projection: str, name: str
):
    """Output i of a head's first half is followed by output i of its second."""
    weights = random_weights(AdapterConfig(rank=2, alpha=2.0, target_modules=projection))
    b = weights[f"model.layers.0.self_attn.{projection}"].b
    width = 32 // HEADS
    order = [
        head * width + half * width // 2 + i
        for head in range(len(b) // width)
        for i in range(width // 2)
        for half in range(2)
    ]
    for architecture, expected in (("llama", b[order]), ("qwen2", b)):
        raw = to_gguf(weights, replace(rotary, architecture=architecture))
        _, tensors = read_gguf(raw, tmp_path)
        assert torch.equal(tensors[f"blk.0.{name}.weight.lora_b"], expected)


@pytest.mark.parametrize("architecture", ["LLAMA", "QWEN2", "QWEN3", "GEMMA2", "GEMMA3"])
def test_names_are_the_packages_own(
    rotary: BaseModel, random_weights: Weights, tmp_path: Path, architecture: str
):
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, architecture), 2)
    weights = random_weights(AdapterConfig(target_modules="all-linear"))
    _, tensors = read_gguf(to_gguf(weights, rotary), tmp_path)
    expected = {names.get_name(path) for path in weights}
    assert {name.removesuffix(".weight.lora_a") for name in tensors if "lora_a" in name} == expected


def test_architectures_and_layers_without_a_known_name_are_refused(
    base: BaseModel, random_weights: Weights
):
    weights = random_weights(AdapterConfig())
    with pytest.raises(InvalidAdapter, match="no GGUF export for gpt2"):
        to_gguf(weights, replace(base, architecture="gpt2"))
    with pytest.raises(InvalidAdapter, match="no known name"):
        to_gguf({"router": next(iter(weights.values()))}, base)


def test_the_package_finds_the_tokens_that_an_answer_only_adapter_acts_from(
    rotary: BaseModel, random_weights: Weights, tmp_path: Path
):
    weights = random_weights(AdapterConfig(rank=2, target_modules="v_proj"))
    facts, _ = read_gguf(to_gguf(weights, rotary, invocation=(7, 300)), tmp_path)
    assert list(facts["adapter.alora.invocation_tokens"]) == [7, 300]
