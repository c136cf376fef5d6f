"""For every test: tensor shapes are checked as annotated, and torch keeps to one thread."""

import os

from jaxtyping import install_import_hook

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

install_import_hook(("ouroboros.lora", "ouroboros.backend"), "beartype.beartype")
