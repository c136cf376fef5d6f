"""W5: requests for 1,000 registered adapters, Zipf-distributed, compared with requests for one.

The adapters are in a store on disk, and a sixteenth of them fits the memory for adapters. Each of 64
clients sends one request after the other; both arms run in one process, alternating.
"""

import asyncio
import random
import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from benchmarks._serving import Clock, add_shape, build, prompts
from benchmarks.harness import Claim, Spread, fresh, ratios

ASKERS, TOKENS = 64, 16


def add_arguments(parser: ArgumentParser) -> None:
    add_shape(parser, "0.5b")
    parser.add_argument("--registered", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=192)


def run(options: Namespace) -> list[Claim]:
    registered = 20 if options.quick else options.registered
    requests = 64 if options.quick else options.requests
    with tempfile.TemporaryDirectory() as folder:
        fresh(build, folder=folder, shape="tiny" if options.quick else options.shape)()
        times = fresh(
            ours,
            folder=folder,
            registered=registered,
            requests=requests,
            repeats=1 if options.quick else options.repeats,
            targets=options.targets,
            processor=options.processor,
        )()
    share_kept = ratios(times["many"], times["one"])
    return [
        Claim(f"{registered} adapters over one", Spread.of(share_kept), at_least=0.80, unit="x"),
        Claim(f"{registered} adapters", Spread.of(times["many"]), unit=" tok/s"),
        Claim("one adapter", Spread.of(times["one"]), unit=" tok/s"),
        Claim("adapters read from the store, a round", Spread.of(times["read"])),
    ]


def ours(**work: Any) -> dict[str, Any]:
    return asyncio.run(_ours(**work))


async def _ours(
    folder: str, registered: int, requests: int, repeats: int, targets: str, processor: bool
) -> dict[str, Any]:
    from ouroboros.backend.base import GenerateRequest
    from ouroboros.backend.local import LocalBackend
    from ouroboros.backend.local.model.load import load_base
    from ouroboros.domain.config import AdapterConfig
    from ouroboros.domain.generation import GenerationConfig
    from ouroboros.domain.weights import AdapterFiles

    backend = LocalBackend(load_base(folder))
    store, digests = Path(folder, "store"), []
    store.mkdir()
    shape = AdapterConfig(target_modules=targets)
    start = await backend.initialize(shape, 0)
    for seed in range(registered):
        weights = (await backend.initialize(shape, seed)).weights
        digests.append(AdapterFiles(start.config, weights).digest)
        (store / digests[-1]).write_bytes(weights)
    backend._resident_bytes = 2 * len(start.weights) * max(2, registered // 16)
    reads = 0

    async def ask(digest: str, prompt: str) -> int:
        nonlocal reads
        if not await backend.is_loaded(digest):
            reads += 1
            weights = await asyncio.to_thread((store / digest).read_bytes)
            await backend.load(AdapterFiles(start.config, weights))
        request = GenerateRequest(prompt, GenerationConfig(max_tokens=TOKENS), digest)
        (answer,) = await backend.generate([request])
        return len(answer.tokens)

    async def rate(chosen: list[str]) -> float:
        work = list(zip(chosen, prompts(len(chosen)), strict=True))
        clock, tokens = Clock(processor), 0

        async def asker() -> None:
            nonlocal tokens
            while work:
                answered = await ask(*work.pop())
                tokens += answered  # only now: others have added theirs meanwhile

        await asyncio.gather(*(asker() for _ in range(ASKERS)))
        return tokens / clock()

    chance = random.Random(0)
    weights = [1 / (rank + 1) for rank in range(registered)]
    await rate(digests[:1] * ASKERS)
    times: dict[str, list[float]] = {"one": [], "many": [], "read": []}
    for _ in range(repeats):
        times["one"].append(await rate(digests[:1] * requests))
        reads = 0
        times["many"].append(await rate(chance.choices(digests, weights, k=requests)))
        times["read"].append(reads)
    await backend.close()
    return times
