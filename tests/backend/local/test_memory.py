"""Memory: known before it is taken, and named when it runs out."""

import pytest
import torch

from ouroboros.backend.local import load as loading
from ouroboros.backend.local.load import load
from ouroboros.backend.local.memory import (
    explained,
    fitting_tokens,
    free_bytes,
    training_bytes_per_token,
    weight_bytes,
)
from ouroboros.domain.errors import BackendError, ModelError

CPU = torch.device("cpu")


def test_headers_tell_what_the_weights_take(tiny_folder, frozen):
    files = sorted(tiny_folder().glob("*.safetensors"))
    stored = {p.data_ptr(): p.numel() for p in frozen.model.parameters()}
    assert weight_bytes(files, torch.bfloat16) == 2 * sum(stored.values())
    assert weight_bytes(files, torch.float32) == 4 * sum(stored.values())


def test_a_model_too_large_is_refused_before_it_is_read(tiny_folder, monkeypatch):
    monkeypatch.setattr(loading, "free_bytes", lambda device: 1000)
    monkeypatch.delattr(loading, "AutoModelForCausalLM")
    with pytest.raises(ModelError, match=r"GiB of memory; 0\.0 GiB are free"):
        load(str(tiny_folder()), "float32")


def test_the_system_tells_what_is_free():
    free = free_bytes(CPU)
    assert free is None or 0 < free < 1 << 60


def test_little_memory_makes_the_token_budget_small(frozen, monkeypatch):
    plenty = frozen.token_budget
    per_token = training_bytes_per_token(frozen.base, 4)
    monkeypatch.setattr(loading, "free_bytes", lambda device: 200 * per_token)
    assert frozen.token_budget == 100 < plenty
    assert fitting_tokens(500, per_token, None) == 500
    assert fitting_tokens(500, per_token, 1) == 64


def test_running_out_is_one_error_with_the_numbers():
    with pytest.raises(BackendError, match=r"Out of memory.*GiB free"), explained(CPU):
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="something else"), explained(CPU):
        raise RuntimeError("something else")
