"""A base whose linear layers are kept in fewer bits; adapters and everything else stay as they are.

The base is frozen, so it is only ever multiplied with: 8 or 4 bits a weight save memory and no adapter
notices but through the base's own small errors. What an adapter learned on it fits it alone: the
quantisation is part of the fingerprint.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from ouroboros.domain.errors import InvalidConfig, MissingExtra

FORMS = ("none", "int8", "nf4")
BYTES_PER_WEIGHT = {"int8": 1.0, "nf4": 0.5}
"""A weight takes so many, at the least: embeddings and scales take more."""


def quantization_config(form: str, dtype: torch.dtype) -> Any:
    """What transformers is to be told: None, or the config of bitsandbytes, which does it.

    int8  one scale per row, rare large inputs in 16 bits (LLM.int8(), arXiv 2208.07339).
    nf4   four bits in the quantiles of a normal distribution (QLoRA, arXiv 2305.14314).

    Raises `MissingExtra` when the library is not installed.
    """
    if form == "none":
        return None
    if form not in FORMS:
        raise InvalidConfig(f"quantize is {form!r}.", hint=f"Use one of {', '.join(FORMS)}.")
    missing = [library for library in ("bitsandbytes", "accelerate") if find_spec(library) is None]
    if missing:
        raise MissingExtra(
            f"A base in {form} needs {' and '.join(missing)}, not installed here.",
            hint="Install it with: pip install 'ouroboros-learning[quantized]'",
        )
    from transformers import BitsAndBytesConfig

    if form == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def keep_differentiable(model: nn.Module) -> None:
    """Stop bitsandbytes from repacking NF4 weights for fast inference on a CPU.

    It repacks in place at the first forward pass without gradients, and gradients through the repacked
    weights are silently wrong (seen in 0.50.2).
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]  # a flag of that layer
