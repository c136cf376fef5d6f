"""A base from its config.json alone."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ouroboros.backend.local.model.config_only import describe_base
from ouroboros.backend.local.model.load import load_base
from ouroboros.domain.errors import ModelError


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_layers_are_those_of_the_loaded_model(
    tiny_folder: Callable[..., Path], tmp_path: Path, architecture: str
):
    shutil.copy(tiny_folder(architecture) / "config.json", tmp_path)
    base = describe_base(str(tmp_path))
    loaded = load_base(str(tiny_folder(architecture)), "float32").base
    assert base.linears == loaded.linears
    assert (base.width, base.layers, base.heads) == (loaded.width, loaded.layers, loaded.heads)
    assert base.parameters == loaded.parameters


def test_a_model_of_billions_takes_no_memory(tmp_path: Path):
    """Llama-2-7B's shape, which would not fit into this machine's tests."""
    (tmp_path / "config.json").write_text(
        '{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,'
        ' "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000}'
    )
    assert describe_base(str(tmp_path)).parameters == 6_738_415_616


@pytest.mark.parametrize("config", [None, "{", '{"model_type": "nothing"}', '{"model_type": "vit"}'])
def test_what_is_no_language_model_is_refused(tmp_path: Path, config: str | None):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match="causal language model"):
        describe_base(str(tmp_path))
