"""What W4, W5 and W6 share: a model of random weights, adapters on it, and the rate of its decoding."""

import json
import random
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from benchmarks.w2.job import SHAPES as TRAINED

SHAPES: dict[str, dict[str, Any]] = {
    "0.5b": TRAINED["0.5b"],
    "small": TRAINED["24m"],
    "tiny": {"vocab_size": 2048},
}
"""As `w2` has them, and one to show that it runs."""

WARM = 4
_WORDS = "where is my parcel please play some music set an alarm for seven I was charged twice".split()


def add_shape(parser: ArgumentParser, default: str) -> None:
    parser.add_argument("--shape", choices=sorted(SHAPES), default=default, help="of the random base")
    parser.add_argument("--targets", default="q_proj,v_proj", help="layers of the adapters, rank 8")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of all arms")
    parser.add_argument(
        "--processor", action="store_true", help="processor time, for a machine that is not idle"
    )


def build(folder: str, shape: str) -> dict[str, Any]:
    """Write the random model, in bfloat16, and its tokenizer."""
    import torch

    from ouroboros.testing.tiny import tiny_model

    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        tiny_model(Path(folder), "qwen2", chat=False, **SHAPES[shape])
    finally:
        torch.set_default_dtype(dtype)
    _never_end(Path(folder))
    return {"folder": folder}


def _never_end(folder: Path) -> None:
    """Give the end token the score 0, which among thousands is never the highest."""
    from safetensors.torch import load_file, save_file

    end = json.loads((folder / "config.json").read_text())["eos_token_id"]
    file = folder / "model.safetensors"
    weights = load_file(file)
    for name in {"lm_head.weight", "model.embed_tokens.weight"} & weights.keys():
        weights[name][end] = 0.0
    save_file(weights, file, metadata={"format": "pt"})


def prompts(count: int, words: int = 12) -> list[str]:
    chance = random.Random(0)
    return [" ".join(chance.choices(_WORDS, k=words)) for _ in range(count)]


class Clock:
    """Seconds since its making: by the wall, or by the processor where a machine is never idle."""

    def __init__(self, processor: bool = False) -> None:
        self._now = time.process_time if processor else time.perf_counter
        self._start = self._now()

    def __call__(self) -> float:
        return self._now() - self._start
