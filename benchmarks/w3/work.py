"""What every arm is given: adapters that have been trained a little, and a row for each."""

import random
from pathlib import Path
from typing import Any

from benchmarks.w2.job import examples

RANK, ALPHA, RATE = 8, 16, 1e-3

WARM = (3, 4, 5, 6, 7)
"""Seeds of the rows that warm up: by then memory that is asked for again and again has come to stay."""


def rows(count: int, seed: int = 1) -> list[tuple[str, str]]:
    """A message of 90 words and an answer of 20 for each adapter."""
    chance = random.Random(seed)
    words = " ".join(prompt for prompt, _ in examples(20)).split()
    return [
        (" ".join(chance.choices(words, k=90)), " ".join(chance.choices(words, k=20)))
        for _ in range(count)
    ]


def start_of(work: str, acts_on: str, number: int) -> Path:
    """The PEFT folder that an adapter starts from."""
    return Path(work, "starts", acts_on, str(number))


def end_of(work: str, arm: str, count: int, number: int) -> Path:
    """The PEFT folder that an arm with so many adapters leaves it in."""
    return Path(work, f"ends-{count}", arm, str(number))


def encode_labelled(tokenizer: Any, prompt: str, output: str) -> tuple[list[int], list[int]]:
    """Ids of a row as ours has them, and its labels."""
    turns = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    before = tokenizer.encode(text, add_special_tokens=False)
    after = [*tokenizer.encode(output, add_special_tokens=False), tokenizer.eos_token_id]
    return before + after, [-100] * len(before) + after
