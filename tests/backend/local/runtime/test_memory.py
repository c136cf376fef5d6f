"""Memory: known before it is taken, and named when it runs out."""

import subprocess
import sys

import pytest
import torch

from ouroboros.backend.local.model import load as loading
from ouroboros.backend.local.model.config_only import build_meta_model
from ouroboros.backend.local.model.load import load_base
from ouroboros.backend.local.runtime.memory import (
    count_weights,
    format_bytes,
    free_bytes,
    oom_as_error,
    reusable_bytes,
)
from ouroboros.domain.errors import ModelError, OutOfMemory

CPU = torch.device("cpu")
LLAMA_7B = (
    '{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,'
    ' "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000}'
)


def test_headers_tell_how_many_weights_there_are(tiny_folder, runtime):
    files = sorted(tiny_folder().glob("*.safetensors"))
    stored = {p.data_ptr(): p.numel() for p in runtime.model.parameters()}
    assert count_weights(files) == sum(stored.values())


def test_a_model_too_large_is_refused_before_it_is_read(tiny_folder, monkeypatch):
    monkeypatch.setattr(loading, "free_bytes", lambda device: 1000)
    monkeypatch.delattr(loading, "AutoModelForCausalLM")
    with pytest.raises(OutOfMemory, match=r"takes 0\.4 MiB of memory; 0\.0 MiB are free"):
        load_base(str(tiny_folder()), "float32")


@pytest.mark.parametrize(
    ("quantize", "needed"), [("none", "25.1 GiB"), ("int8", "6.3 GiB"), ("nf4", "3.1 GiB")]
)
def test_a_model_on_the_hub_is_refused_by_its_configuration_alone(
    quantize, needed, tmp_path, monkeypatch
):
    (tmp_path / "config.json").write_text(LLAMA_7B)
    monkeypatch.setattr(loading, "free_bytes", lambda device: 3 << 30)
    monkeypatch.setattr(loading, "check_hub", lambda name, known: None)
    monkeypatch.setattr(loading, "build_meta_model", lambda source: build_meta_model(str(tmp_path)))
    monkeypatch.setattr(loading, "quantization_config", lambda form, dtype: None)
    with pytest.raises(OutOfMemory, match=f"takes {needed} of memory; 3.0 GiB are free"):
        load_base("someone/llama-7b", "float32", quantize=quantize)


def test_what_is_no_model_is_told_before_its_size(tmp_path):
    with pytest.raises(ModelError, match="configuration of a causal"):
        build_meta_model(str(tmp_path))


def test_the_system_tells_what_is_free():
    free = free_bytes(CPU)
    assert free is None or 0 < free < 1 << 60


def test_sizes_are_read_by_people():
    assert [format_bytes(n) for n in (0, 3 << 20, 5 << 29)] == ["0.0 MiB", "3.0 MiB", "2.5 GiB"]


def test_running_out_is_one_error_with_the_numbers():
    with (
        pytest.raises(OutOfMemory, match=r"\(3\.0 MiB were predicted, .* are free\)"),
        oom_as_error(CPU, 3 << 20, "Take a smaller model."),
    ):
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="something else"), oom_as_error(CPU, None, ""):
        raise RuntimeError("something else")


@pytest.mark.skipif(reusable_bytes() == 0, reason="the C library does not tell")
def test_memory_that_is_freed_and_kept_counts_as_free():
    """In a program of its own: what another test has done to this one's memory does not matter."""
    process = subprocess.run(
        [sys.executable, "-c", KEEPING], capture_output=True, text=True, check=True
    ).stdout.split()
    before, with_it, after = map(int, process)
    assert with_it - before < 50 << 20
    assert after - before > 200 << 20


KEEPING = """
from ouroboros.backend.local.runtime.memory import keep_freed_memory, reusable_bytes
import torch
keep_freed_memory()
print(reusable_bytes())
some = [torch.ones(1 << 20) for _ in range(60)]
print(reusable_bytes())
del some
print(reusable_bytes())
"""
