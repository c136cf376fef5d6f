"""Cost of HTTP: streams over many adapters, through `ouroboros serve` and in process, alternating."""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from statistics import median, quantiles

import httpx2

from benchmarks.harness import Claim, Spread, ratios
from ouroboros import AdapterLearningEngine, Continuation, GenerationConfig, open_engine

TOKENS = 48
"""Tokens of each answer, at most."""

PROMPT = "Once upon a time there was"


@dataclass
class Timing:
    """One round: tokens a second of all streams, and each stream's time to its first text."""

    rate: float = 0.0
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)


Ask = Callable[[str, Timing], Awaitable[int]]
"""Streams one adapter's answer, times its pieces, and returns its tokens."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--streams", type=int, default=64, help="answers at once")
    parser.add_argument("--adapters", type=int, default=16, help="adapters that they name in turn")


def run(options: Namespace) -> list[Claim]:
    return asyncio.run(measure(options.streams, options.adapters, 1 if options.quick else 7))


async def measure(streams: int, adapters: int, repeats: int) -> list[Claim]:
    with tempfile.TemporaryDirectory() as store:
        names = [f"a{n}" for n in range(adapters)]
        async with open_engine(store=store, model="starter") as engine:
            for name in names:
                (await engine.create_adapter(name)).unwrap()
            targets = [names[n % adapters] for n in range(streams)]
            local, remote = await _take_turns(engine, store, targets, repeats)
    rates = ratios([t.rate for t in remote], [t.rate for t in local])
    added = [1000 * (median(a.first) - median(b.first)) for a, b in zip(remote, local, strict=True)]
    return [
        Claim("tokens a second, over HTTP as a share of in process", Spread.of(rates), at_least=0.9),
        Claim("added to the median time to the first text", Spread.of(added), at_most=15, unit=" ms"),
        Claim("tokens a second, over HTTP", Spread.of(t.rate for t in remote)),
        Claim("tokens a second, in process", Spread.of(t.rate for t in local)),
        Claim("p95 between two pieces, over HTTP", _p95(remote), unit=" ms"),
        Claim("p95 between two pieces, in process", _p95(local), unit=" ms"),
    ]


async def _take_turns(
    engine: AdapterLearningEngine, store: str, targets: list[str], repeats: int
) -> tuple[list[Timing], list[Timing]]:
    """Rounds in this process and over HTTP, one after the other; the first of each is not counted."""
    command = [sys.executable, "-m", "ouroboros", "serve", "--json", "--port", "0", "--store", store]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            url = json.loads("".join(server.stdout.readline() for _ in range(4)))["url"]
            limits = httpx2.Limits(max_connections=len(targets))
            async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
                arms: list[Ask] = [_in_process(engine), _over_http(http)]
                rounds = [[await _time(ask, targets) for ask in arms] for _ in range(repeats + 1)]
        finally:
            server.terminate()
    return [r[0] for r in rounds[1:]], [r[1] for r in rounds[1:]]


async def _time(ask: Ask, targets: list[str]) -> Timing:
    timing = Timing()
    started = time.perf_counter()
    tokens = await asyncio.gather(*(ask(name, timing) for name in targets))
    timing.rate = sum(tokens) / (time.perf_counter() - started)
    return timing


def _in_process(engine: AdapterLearningEngine) -> Ask:
    async def ask(name: str, timing: Timing) -> int:
        last = started = time.perf_counter()
        tokens = 0
        config = GenerationConfig(max_tokens=TOKENS)
        async for piece in engine.stream_with_adapter(Continuation(PROMPT), name, config):
            chunk = piece.unwrap()
            last = _note(timing, started, last)
            tokens = len(chunk.generation.tokens) if chunk.generation else 0
        return tokens

    return ask


def _over_http(http: httpx2.AsyncClient) -> Ask:
    async def ask(name: str, timing: Timing) -> int:
        body = {
            "model": name,
            "prompt": PROMPT,
            "temperature": 0,
            "max_tokens": TOKENS,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        last = started = time.perf_counter()
        tokens = 0
        async with http.stream("POST", "/v1/completions", json=body) as stream:
            async for line in stream.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line[6:])
                if chunk["choices"] and chunk["choices"][0]["text"]:
                    last = _note(timing, started, last)
                elif chunk["usage"]:
                    tokens = chunk["usage"]["completion_tokens"]
        return tokens

    return ask


def _note(timing: Timing, started: float, last: float) -> float:
    """Note a piece: the first of its stream, or the gap since the one before."""
    now = time.perf_counter()
    (timing.first if last == started else timing.gaps).append(now - last)
    return now


def _p95(timings: list[Timing]) -> Spread:
    return Spread.of(1000 * quantiles(t.gaps, n=20)[-1] for t in timings)
