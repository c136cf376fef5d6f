"""Time that is saved where the base reads prompts once, for a training and for many adapters at once.

Arms take turns: ordinary adapters, answer-only ones, and these with nothing kept between passes.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from benchmarks.harness import Claim, Spread
from benchmarks.harness.claims import ratios
from ouroboros.backend.base import GenerateRequest, TrainJob
from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.cache.prefix_cache import DEFAULT_MAX_BYTES
from ouroboros.backend.local.model.load import load_base
from ouroboros.domain.config import ALL, ANSWER, AdapterConfig, TrainingConfig
from ouroboros.domain.data import Message, Row
from ouroboros.domain.generation import GenerationConfig
from ouroboros.domain.weights import AdapterFiles

ARMS = {
    "ordinary": (ALL, 0),
    "answer-only": (ANSWER, DEFAULT_MAX_BYTES),
    "answer-only, nothing kept": (ANSWER, 0),
}
"""What the adapter acts on, and the bytes kept of what the base has read."""

WORDS = (
    "the order of the customer was sent by ship and is late because of bad weather at sea again".split()
)
EPOCHS = 3


def claims(model: str, rows: int, prompt: int, adapters: int, rounds: int) -> list[Claim]:
    return asyncio.run(_claims(model, rows, prompt, adapters, rounds))


async def _claims(model: str, rows: int, prompt: int, adapters: int, rounds: int) -> list[Claim]:
    measured: list[Claim] = []
    works = {
        f"{rows} rows of about {prompt} tokens, {EPOCHS} epochs": lambda b, c: _train(
            b, c, rows, prompt
        ),
        f"{adapters} adapters answer after one system prompt of about {prompt} tokens": (
            lambda b, c: _serve(b, c, adapters, prompt)
        ),
    }
    for name, work in works.items():
        times = await _in_turn(model, work, rounds)
        plain = times["ordinary"]
        measured += [Claim(f"{name}: {arm}", Spread.of(t), unit=" s") for arm, t in times.items()]
        measured += [
            Claim(f"{name}: ordinary / {arm}", Spread.of(ratios(plain, t)), unit="x")
            for arm, t in times.items()
            if arm != "ordinary"
        ]
    return measured


Work = Callable[[LocalBackend, AdapterConfig], Awaitable[float]]


async def _in_turn(model: str, work: Work, rounds: int) -> dict[str, list[float]]:
    """Seconds of each arm, each time with a fresh backend."""
    times: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for _ in range(rounds):
        for arm, (acts_on, keep_prefix) in ARMS.items():
            backend = LocalBackend(load_base(model, prefix_cache_bytes=keep_prefix))
            config = AdapterConfig.auto(await backend.base(), acts_on=acts_on)
            times[arm].append(await work(backend, config))
            await backend.close()
    return times


async def _train(backend: LocalBackend, config: AdapterConfig, rows: int, prompt: int) -> float:
    learned = tuple(Row(_text(prompt, n), f"case {n}") for n in range(rows))
    job = TrainJob(await backend.initialize(config, 0), config, TrainingConfig(8, EPOCHS), learned)
    started = time.perf_counter()
    await backend.train(job)
    return time.perf_counter() - started


async def _serve(backend: LocalBackend, config: AdapterConfig, adapters: int, prompt: int) -> float:
    """One question to each adapter, one after the other."""
    files: Sequence[AdapterFiles] = [await backend.initialize(config, n) for n in range(adapters)]
    digests = [await backend.load(f) for f in files]
    system = Message("system", _text(prompt, 0))
    short = GenerationConfig(max_tokens=8)
    started = time.perf_counter()
    for n, digest in enumerate(digests):
        question = (system, Message("user", f"Where is parcel {n}?"))
        await backend.generate([GenerateRequest(question, short, digest)])
    return time.perf_counter() - started


def _text(tokens: int, number: int) -> str:
    """About so many words, which begin with a number of its own."""
    return f"{number}: " + " ".join(WORDS[i % len(WORDS)] for i in range(number, number + tokens))
