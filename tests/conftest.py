"""For every test: tensor shapes are checked as annotated, one thread, no network."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

install_import_hook(("ouroboros.lora", "ouroboros.backend"), "beartype.beartype")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random Llama with a tokenizer and a chat template; not to be written to."""
    from ouroboros.testing.tiny import tiny_model

    return tiny_model(tmp_path_factory.mktemp("tiny"))
