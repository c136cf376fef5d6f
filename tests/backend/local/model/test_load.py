"""Loading: real folders, clear refusals, and a fingerprint that tells bases apart."""

import json
import shutil

import pytest
import torch
from huggingface_hub import constants

from ouroboros.backend.local.model.load import load_base
from ouroboros.domain.errors import BaseMismatch, InvalidConfig, ModelError


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder(), tmp_path / "model")


def fingerprint(folder):
    return load_base(str(folder), dtype="float32").base.fingerprint


def test_a_base_is_described(tiny_folder):
    base = load_base(str(tiny_folder()), dtype="float32").base
    assert (base.architecture, base.width, base.layers, base.context) == ("llama", 64, 2, 256)
    assert len(base.linears) == 14
    assert {s.name for s in base.linears} >= {"q_proj", "v_proj", "down_proj"}


def test_a_loaded_base_is_frozen(runtime):
    assert not any(p.requires_grad for p in runtime.model.parameters())
    assert not runtime.model.training


def test_dtype_is_a_choice(folder):
    assert load_base(str(folder), dtype="bfloat16").dtype == torch.bfloat16
    assert load_base(str(folder), dtype="float32").dtype == torch.float32


def test_a_missing_folder(tmp_path):
    with pytest.raises(ModelError, match="no model folder"):
        load_base(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", ["stater", "nobody/nothing"])
def test_a_name_that_the_hub_cannot_be_asked_for(name, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=f"no folder '{name}'") as caught:
        load_base(name)
    assert ('Did you mean "starter"?' in str(caught.value)) is (name == "stater")


def test_a_name_that_is_no_hub_id():
    with pytest.raises(ModelError, match="no such id"):
        load_base("two words")


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json"):
        load_base(str(tmp_path))


def test_a_folder_without_a_tokenizer(folder):
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        load_base(str(folder))


def test_pickled_weights_are_never_read(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(ModelError, match="pickle"):
        load_base(str(folder))


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        load_base(str(folder))


def test_a_damaged_config(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(str(folder))


@pytest.mark.parametrize("setting", [{"dtype": "int3"}, {"device": "tpu"}])
def test_unknown_settings_are_refused(folder, setting):
    with pytest.raises(InvalidConfig):
        load_base(str(folder), **setting)


def test_the_same_folder_has_the_same_fingerprint(folder, tiny_folder):
    assert fingerprint(folder) == fingerprint(tiny_folder())


def test_the_dtype_does_not_change_the_fingerprint(folder):
    assert load_base(str(folder), dtype="bfloat16").base.fingerprint == fingerprint(folder)


def test_other_weights_are_another_base(folder, tiny_folder):
    other = fingerprint(tiny_folder(seed=1))
    with pytest.raises(BaseMismatch, match="its weights differ"):
        fingerprint(folder).require_equal(other, "It")


def test_another_template_is_another_base(folder):
    before = fingerprint(folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(BaseMismatch, match="chat template"):
        fingerprint(folder).require_equal(before, "It")


def test_another_setting_is_another_base(folder):
    before = fingerprint(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    with pytest.raises(BaseMismatch, match="configuration"):
        fingerprint(folder).require_equal(before, "It")
