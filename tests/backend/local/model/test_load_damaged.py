"""Damaged and hostile model folders are refused in words, before they cost time or memory."""

import json
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from ouroboros.backend.local.model.config_only import describe_base
from ouroboros.backend.local.model.load import load_base
from ouroboros.backend.local.model.template_limit import time_limit
from ouroboros.domain.errors import BaseMismatch, InvalidExample, ModelError


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder(), tmp_path / "model")


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_a_model_with_missing_tensors_is_refused(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 of its tensors .* model\.layers\.1\.mlp\.up_proj\.weight"):
        load_base(str(folder))


def test_a_tokenizer_with_more_tokens_than_rows_is_refused(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["surplus"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="the token 'surplus' with the id 320, and the model has 320"):
        load_base(str(folder))


def test_a_special_token_beyond_the_rows_is_ordinary_text_where_a_user_writes_it(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|image|>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    tokenizer = load_base(str(folder)).tokenizer
    for prompt, output in (("hello <|image|>", "fine"), ("hello", "fine <|image|>")):
        pair = tokenizer.encode_pair(prompt, output)
        assert max((*pair.prompt, *pair.output)) < 320
        assert "<|image|>" in tokenizer.decode((*pair.prompt, *pair.output))


def test_a_special_token_beyond_the_rows_is_refused_where_the_template_writes_it(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|image|>"], special_tokens=True)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", "<|end|><|image|>")
    tokenizer.save_pretrained(folder)
    with pytest.raises(InvalidExample, match=r"<\|image\|>"):
        load_base(str(folder))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{", "its header is cut"),
        (b"\xff" * 64, "its header is cut"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00not json, not it!", "not JSON"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00[]", "no object"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git .* lfs pull"),
    ],
)
def test_weights_that_are_none(folder, content, words):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=words):
        load_base(str(folder))


def test_weights_that_are_cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match="it is cut"):
        load_base(str(folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 10**6},
        {"num_hidden_layers": 10**40},
        {"hidden_size": 10**9},
        {"vocab_size": 10**12},
        {"intermediate_size": "wide"},
        {"num_attention_heads": -1},
        {"num_hidden_layers": True},
        {"text_config": {"num_hidden_layers": 10**6}},
    ],
)
@pytest.mark.parametrize("load", [load_base, describe_base])
def test_sizes_that_no_model_has_are_refused_at_once(folder, changes, load):
    change_config(folder, **changes)
    begin = time.process_time()
    with pytest.raises(ModelError, match="states"):
        load(str(folder))
    assert time.process_time() - begin < 2


@pytest.mark.parametrize("text", ["[]", "3", "[" * 100_000])
def test_a_config_that_is_no_object(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(str(folder))


def test_a_template_that_does_not_end_is_stopped(folder, monkeypatch):
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(loops)
    limit = time_limit
    monkeypatch.setattr("ouroboros.backend.local.model.tokenizer.time_limit", lambda: limit(0.2))
    with pytest.raises(ModelError, match=r"did not end within 0\.2 seconds"):
        load_base(str(folder))


def test_a_model_of_other_content_is_another_base_wherever_it_differs(tmp_path, tiny_folder):
    folder = shutil.copytree(tiny_folder(), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    # Over 64 MiB, of which older releases read samples alone.
    padding = {"unused": torch.zeros(80 << 20, dtype=torch.uint8)}
    save_file(weights | padding, folder / "model.safetensors", {"format": "pt"})
    before = load_base(str(folder), "float32").base.fingerprint
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek((40 << 20) + 4321)
        file.write(b"\x01")
    with pytest.raises(BaseMismatch, match="its weights differ"):
        load_base(str(folder), "float32").base.fingerprint.require_equal(before, "It")
