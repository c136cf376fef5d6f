"""An adapter's weight files, in PEFT's format."""

import hashlib
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
GGUF_FILE = "adapter.gguf"
MAX_BYTES = 10 * 1024 * 1024
"""No adapter's weight file is larger than 10 MiB, header included."""


class Precision(str, Enum):
    """The number format of a stored adapter.

    FLOAT32 and BFLOAT16 are PEFT folders that others load unchanged. INT8 (one scale per rank) and
    INT4 (one scale per 32 numbers) are ours, and are exported as PEFT folders.
    """

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    INT4 = "int4"


class ExportForm(str, Enum):
    """PEFT is the folder that PEFT, vLLM and LoRAX read; GGUF is the file of llama.cpp and Ollama."""

    PEFT = "peft"
    GGUF = "gguf"


@dataclass(frozen=True)
class AdapterFiles:
    """`adapter_config.json` and `adapter_model.safetensors`, as bytes."""

    config: bytes
    weights: bytes

    @cached_property
    def digest(self) -> str:
        """SHA-256 over both files: what a version is addressed by."""
        inner = hashlib.sha256(self.config).digest() + hashlib.sha256(self.weights).digest()
        return hashlib.sha256(inner).hexdigest()


@dataclass(frozen=True)
class ShrunkFiles:
    """An adapter cut to a rank whose file fits into the size limit.

    `relative_error` is the norm of what the cut and rounding changed over the norm of the whole update.
    """

    files: AdapterFiles
    rank: int
    original_rank: int
    relative_error: float
