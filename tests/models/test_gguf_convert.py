"""GGUF files become folders that answer as the model they were made from."""

import json
import shutil

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ouroboros.backend.local.model.config_only import describe_base
from ouroboros.backend.local.model.load import load_base
from ouroboros.domain.errors import ModelError
from ouroboros.models import resolve_model
from ouroboros.models.gguf_convert import ARCHITECTURES, check_gguf
from ouroboros.testing.tiny import tiny_model
from tests.models.gguf_files import tiny_gguf, write_gguf

IDS = torch.tensor([[7, 3, 9, 40, 41, 5, 200, 17]])


def logits(folder):
    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(IDS).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_converted_model_gives_the_logits_of_the_original(cache, tmp_path, architecture):
    original, path = tiny_gguf(tmp_path, architecture)
    # The conversion rounds weights to bfloat16, so the original is compared in the same numbers.
    rounded = AutoModelForCausalLM.from_pretrained(original, dtype=torch.bfloat16)
    rounded.save_pretrained(tmp_path / "rounded")
    torch.testing.assert_close(logits(resolve_model(str(path))), logits(tmp_path / "rounded"))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "Q5_0", "F16", "BF16"])
def test_quantised_weights_are_those_that_llama_cpp_computes_with(cache, tmp_path, kind):
    kind = gguf.GGMLQuantizationType[kind]
    original, path = tiny_gguf(tmp_path, "qwen2", kind=kind)
    name = "model.layers.1.mlp.down_proj.weight"
    weights = AutoModelForCausalLM.from_pretrained(original).state_dict()[name].numpy()
    if kind == gguf.GGMLQuantizationType.F16:
        expected = weights.astype(np.float16).astype(np.float32)
    else:
        expected = gguf.dequantize(gguf.quantize(weights, kind), kind)
    converted = AutoModelForCausalLM.from_pretrained(resolve_model(str(path)), dtype=torch.bfloat16)
    assert torch.equal(converted.state_dict()[name], torch.from_numpy(expected).bfloat16())


def test_the_tokenizer_and_the_template_are_those_of_the_original(cache, tmp_path):
    original, path = tiny_gguf(tmp_path)
    before, after = (AutoTokenizer.from_pretrained(f) for f in (original, resolve_model(str(path))))
    for text in ["where is my parcel?", "  two 12  blanks\n", "é\u4e2d 99", "<|user|>hi<|end|>"]:
        assert after.encode(text) == before.encode(text)
        assert after.decode(after.encode(text)) == text
    assert after.chat_template == before.chat_template
    assert (after.eos_token, after.pad_token) == (before.eos_token, before.pad_token)


def test_numbers_are_split_as_the_vocabulary_was_learned(cache, tmp_path):
    _, path = tiny_gguf(tmp_path, tokenizer__ggml__pre="smollm")
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(str(path)))
    words = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("at 123")
    assert [word for word, _ in words] == ["at", "Ġ", "1", "2", "3"]


def test_a_model_without_a_template_takes_plain_prompts(cache, tmp_path):
    _, path = tiny_gguf(tmp_path, tokenizer__chat_template=None)
    tokenizer = load_base(str(path), "float32").tokenizer
    assert tokenizer.hf_tokenizer.chat_template is None
    assert tokenizer.decode(tokenizer.encode_prompt("hello")) == "hello"


def test_llama_3_scales_positions_as_its_table_says(cache, tmp_path):
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    model = tiny_model(tmp_path / "original", head_dim=16, rope_parameters=scaling)
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(
        tmp_path / "rounded"
    )
    rotary = AutoModelForCausalLM.from_pretrained(model).model.rotary_emb
    plain = 500000.0 ** (-torch.arange(0, 16, 2) / 16)
    factors = (plain / rotary.inv_freq).numpy().astype(np.float32)
    path = write_gguf(tmp_path / "model.gguf", model, extra_tensors={"rope_freqs.weight": factors})
    folder = resolve_model(str(path))
    torch.testing.assert_close(logits(folder), logits(tmp_path / "rounded"))

    factors[-1] = 3.0
    write_gguf(path, model, extra_tensors={"rope_freqs.weight": factors})
    with pytest.raises(ModelError, match="a table of its own"):
        resolve_model(str(path))


def test_an_ollama_blob_and_a_copy_are_the_same_base(cache, tmp_path):
    _, path = tiny_gguf(tmp_path)
    blob = shutil.copy(path, tmp_path / "sha256-abc")
    assert resolve_model(str(blob)) == resolve_model(str(path))
    assert load_base(str(blob)).base.fingerprint == load_base(str(path)).base.fingerprint
    assert len([f for f in cache.iterdir() if f.is_dir()]) == 1


def test_a_description_needs_no_weights_of_the_converted_model(cache, tmp_path):
    _, path = tiny_gguf(tmp_path)
    base = describe_base(str(path))
    assert (base.name, base.architecture, base.layers, base.width) == ("model.gguf", "llama", 2, 64)


REFUSED = {
    "architecture 'mamba'": {"general__architecture": "mamba"},
    "holds no model but: 'adapter'": {"general__type": "adapter"},
    "holds no tokenizer": {"tokenizer__ggml__model": None},
    "tokenizer of the kind 't5'": {"tokenizer__ggml__model": "t5"},
    "cuts text as 'poro-chat'": {"tokenizer__ggml__pre": "poro-chat"},
    "its tokenizer's token_type do not fit": {"tokenizer__ggml__token_type": [1]},
    "special token's id": {"tokenizer__ggml__eos_token_id": 10**6},
    "chat template is no text": {"tokenizer__chat_template": 7},
    "attention.head_count as 0": {"llama__attention__head_count": 0},
    "embedding_length as text": {"llama__embedding_length": "text"},
    "scales positions": {"llama__rope__scaling__type": "yarn"},
    "its epsilon is -1.0": {"llama__attention__layer_norm_rms_epsilon": -1.0},
    "states 1,000,000 layers": {"llama__block_count": 10**6},
    "the tensor blk.0.ffn_up.weight is missing": {"drop": ("blk.0.ffn_up.weight",)},
    "has the shape [96, 64], not [80, 64]": {"llama__feed_forward_length": 80},
    "holds 'blk.0.ffn_gate_exps'": {"extra_tensors": {"blk.0.ffn_gate_exps": np.ones(4, np.float32)}},
    "values that are not finite": {
        "extra_tensors": {"output.weight": np.full((325, 64), np.inf, np.float32)}
    },
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_converted_is_refused_in_words(cache, tmp_path, reason):
    how = dict(REFUSED[reason])
    if "output.weight" in how.get("extra_tensors", {}):
        how["drop"] = ("output.weight",)
        rows = json.loads((tiny_model(tmp_path / "x") / "config.json").read_text())["vocab_size"]
        how["extra_tensors"] = {"output.weight": np.full((rows, 64), np.inf, np.float32)}
    _, path = tiny_gguf(tmp_path, **how)
    with pytest.raises(ModelError) as caught:
        resolve_model(str(path))
    assert reason in caught.value.message
    assert caught.value.hint
    assert not any(f.is_dir() for f in cache.glob("*"))


def test_a_file_that_is_not_there(cache, tmp_path):
    with pytest.raises(ModelError, match="There is no GGUF file"):
        resolve_model(str(tmp_path / "nothing.gguf"))


def test_more_tokens_than_rows_are_refused(cache, tmp_path):
    model, path = tiny_gguf(tmp_path)
    tokens = [f"t{i}" for i in range(2000)]
    write_gguf(path, model, tokenizer__ggml__tokens=tokens, tokenizer__ggml__token_type=[1] * 2000)
    with pytest.raises(ModelError, match="its tokenizer has 2,000 tokens"):
        check_gguf(path)
