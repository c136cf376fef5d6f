"""Many adapters, one update each: all at once, one by one, and by PEFT one by one.

Each of N adapters (rank 8, every linear layer) takes one optimizer step on one row of its own, of about
100 prompt and 24 answer tokens. Ours goes from rows to packed, servable files; "at once" is N concurrent
calls, "one by one" the same calls in turn. PEFT holds N adapters on one model and switches between them:
at its defaults in float32, and tuned, in bfloat16 with a fused AdamW. Its saving is not counted.
"""

import asyncio
import random
import tempfile
from argparse import ArgumentParser, Namespace
from typing import Any

from benchmarks.harness import Claim, Spread, Times, fresh, interleave, ratios
from benchmarks.w2.job import SHAPES, build_model, examples

RANK, RATE = 8, 1e-3


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--adapters", default="8,16,64", help="numbers of adapters, with commas")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of all arms")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="24m", help="of random weights")


def run(options: Namespace) -> list[Claim]:
    counts = [2] if options.quick else [int(n) for n in options.adapters.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        fresh(build_model, folder=folder, small=options.quick, shape=options.shape)()
        return [c for n in counts for c in _claims(folder, n, 1 if options.quick else options.repeats)]


def _claims(model: str, count: int, repeats: int) -> list[Claim]:
    arms = {
        "one by one": fresh(ours, model=model, count=count, at_once=False),
        "PEFT, tuned": fresh(peer, model=model, count=count, dtype="bfloat16"),
        "PEFT, defaults": fresh(peer, model=model, count=count, dtype="float32"),
    }
    found = interleave({"at once": fresh(ours, model=model, count=count, at_once=True)} | arms, repeats)
    times = {name: [Times(*run["times"]) for run in runs] for name, runs in found.items()}
    targets = {"PEFT, defaults": 15.0, "PEFT, tuned": 6.0}
    claims = [
        Claim(f"{count} adapters, updates per second, {name}", Spread.of([count / t.wall for t in of]))
        for name, of in times.items()
    ]
    for name in arms:
        faster = ratios([t.wall for t in times[name]], [t.wall for t in times["at once"]])
        less = ratios([t.processor for t in times[name]], [t.processor for t in times["at once"]])
        claims += [
            Claim(
                f"{count} at once: times faster than {name}",
                Spread.of(faster),
                at_least=targets.get(name),
            ),
            Claim(f"{count} at once: processor time, times less than {name}", Spread.of(less)),
        ]
    return claims


def rows(count: int) -> list[tuple[str, str]]:
    """A message and an answer of 23 words for each adapter."""
    chance = random.Random(1)
    words = " ".join(prompt for prompt, _ in examples(20)).split()
    return [
        (" ".join(chance.choices(words, k=90)), " ".join(chance.choices(words, k=20)))
        for _ in range(count)
    ]


def ours(model: str, count: int, at_once: bool) -> dict[str, Any]:
    """What all updates take, after one that warms up."""
    from ouroboros.backend.local import LocalBackend

    return {"times": asyncio.run(_ours(LocalBackend.open(model), count, at_once))}


async def _ours(backend: Any, count: int, at_once: bool) -> Times:
    from ouroboros.backend.base import TrainJob
    from ouroboros.domain.config import AdapterConfig, TrainingConfig
    from ouroboros.domain.rows import Row

    config, training = AdapterConfig(RANK, RATE, target_modules="all-linear"), TrainingConfig(1, 1)
    starts = [await backend.initialize(config, seed) for seed in range(count)]
    jobs = [
        TrainJob(start, config, training, (Row(*row),))
        for start, row in zip(starts, rows(count), strict=True)
    ]
    await backend.train(jobs[0])
    started = Times.now()
    if at_once:
        outcomes = await asyncio.gather(*(backend.train(job) for job in jobs))
    else:
        outcomes = [await backend.train(job) for job in jobs]
    times = started.since()
    assert len({o.files.digest for o in outcomes}) == count
    await backend.close()
    return times


def peer(model: str, count: int, dtype: str) -> dict[str, Any]:
    """What the same updates take with PEFT, after one that warms up."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
    tokenizer = AutoTokenizer.from_pretrained(model)
    shape = LoraConfig(r=RANK, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    network = get_peft_model(base, shape, "0")
    for i in range(1, count):
        network.add_adapter(str(i), shape)
    work = [_encoded(tokenizer, *row) for row in rows(count)]
    _step(network, "0", work[0], fused=dtype == "bfloat16")
    started = Times.now()
    for i, (ids, labels) in enumerate(work):
        _step(network, str(i), (ids, labels), fused=dtype == "bfloat16")
    return {"times": started.since()}


def _encoded(tokenizer: Any, prompt: str, output: str) -> tuple[list[int], list[int]]:
    before = tokenizer.encode(prompt)
    after = [*tokenizer.encode(output, add_special_tokens=False), tokenizer.eos_token_id]
    return before + after, [-100] * len(before) + after


def _step(network: Any, name: str, row: tuple[list[int], list[int]], fused: bool) -> None:
    import torch

    network.set_adapter(name)
    weights = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, fused=fused)
    ids, labels = (torch.tensor([part]) for part in row)
    network(input_ids=ids, labels=labels).loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
    assert norm > 0
    optimizer.step()
    optimizer.zero_grad()
