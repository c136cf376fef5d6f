"""W4: decoding rows of 1, 8 and 64 adapters, compared with rows of the base and PEFT's adapter_names.

Tokens per second of decoding, prompts left out: the time of answers of 20 tokens less that of answers
of 4, all rows at once. Ours run through the backend as it serves; PEFT through `generate` with
`adapter_names`, tuned: everything in the same dtype as ours, rows sorted by adapter.
"""

import asyncio
import tempfile
from argparse import ArgumentParser, Namespace
from typing import Any

from benchmarks._serving import WARM, Clock, add_shape, build, prompts
from benchmarks.harness import Claim, Spread, fresh, interleave, ratios

LONG = 20


def add_arguments(parser: ArgumentParser) -> None:
    add_shape(parser, "small")
    parser.add_argument("--rows", type=int, default=64)


def run(options: Namespace) -> list[Claim]:
    shape = "tiny" if options.quick else options.shape
    counts = [n for n in (1, 8, 64) if n <= options.rows]
    with tempfile.TemporaryDirectory() as folder:
        fresh(build, folder=folder, shape=shape)()
        work = {
            "folder": folder,
            "rows": options.rows,
            "counts": counts,
            "targets": options.targets,
            "processor": options.processor,
        }
        arms = {"ours": fresh(ours, **work), "peft": fresh(peer, **work)}
        results = interleave(arms, 1 if options.quick else options.repeats)
    return [claim for n in counts for claim in _claims(results, str(n), options.rows)] + [
        Claim(f"ours, base, {options.rows} rows", spread_of(results["ours"], "0"), unit=" tok/s"),
        Claim(f"PEFT, base, {options.rows} rows", spread_of(results["peft"], "0"), unit=" tok/s"),
    ]


def _claims(results: dict[str, list[dict[str, float]]], n: str, rows: int) -> list[Claim]:
    mine = [r[n] for r in results["ours"]]
    share_kept = ratios(mine, [r["0"] for r in results["ours"]])
    faster = ratios(mine, [r[n] for r in results["peft"]])
    return [
        Claim(f"{n} adapters over base, {rows} rows", Spread.of(share_kept), at_least=0.90, unit="x"),
        Claim(f"{n} adapters over adapter_names", Spread.of(faster), at_least=1.8, unit="x"),
        Claim(f"ours, {n} adapters", Spread.of(mine), unit=" tok/s"),
        Claim(f"adapter_names, {n} adapters", spread_of(results["peft"], n), unit=" tok/s"),
    ]


def spread_of(runs: list[dict[str, float]], name: str) -> Spread:
    return Spread.of(r[name] for r in runs)


def ours(folder: str, rows: int, counts: list[int], targets: str, processor: bool) -> dict[str, Any]:
    return asyncio.run(_ours(folder, rows, counts, targets, processor))


async def _ours(
    folder: str, rows: int, counts: list[int], targets: str, processor: bool
) -> dict[str, Any]:
    from ouroboros.backend.base import GenerateRequest
    from ouroboros.backend.local import LocalBackend
    from ouroboros.domain.config import AdapterConfig
    from ouroboros.domain.generation import GenerationConfig

    backend = LocalBackend.open(folder)
    config = AdapterConfig(target_modules=targets)
    digests = [await backend.load(await backend.initialize(config, seed)) for seed in range(max(counts))]

    async def seconds(count: int, tokens: int) -> float:
        config, clock = GenerationConfig(max_tokens=tokens), Clock(processor)
        requests = [
            GenerateRequest(p, config, digests[i % count] if count else None)
            for i, p in enumerate(prompts(rows))
        ]
        generations = await backend.generate(requests)
        assert all(len(g.tokens) == tokens for g in generations), "an answer ended early"
        return clock()

    # The difference of a long and a short run leaves out the prompts. The first run warms up.
    speeds = {}
    for count in (0, *counts):
        await seconds(count, WARM)
        short = await seconds(count, WARM)
        speeds[str(count)] = rows * (LONG - WARM) / (await seconds(count, LONG) - short)
    await backend.close()
    return speeds


def peer(folder: str, rows: int, counts: list[int], targets: str, processor: bool) -> dict[str, Any]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ouroboros.backend.local.model.dtype import compute_dtype

    dtype = compute_dtype("auto", torch.device("cpu"))
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=targets.split(","), task_type="CAUSAL_LM")
    tuned = get_peft_model(model, lora, adapter_name="a0", autocast_adapter_dtype=False)
    for i in range(1, max(counts)):
        tuned.add_adapter(f"a{i}", lora)
    # PEFT adds adapters in float32: convert all to the base's dtype, in which ours compute too.
    tuned.to(dtype).eval()
    batch = tokenizer(prompts(rows), return_tensors="pt", padding=True)
    batch.pop("token_type_ids", None)

    def seconds(count: int, tokens: int) -> float:
        names = sorted(f"a{i % count}" if count else "__base__" for i in range(rows))
        clock = Clock(processor)
        tuned.generate(
            **batch,
            adapter_names=names,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            do_sample=False,
        )
        return clock()

    # Time it as `_ours` does: a warm-up, then the difference of a long and a short run.
    speeds = {}
    with torch.inference_mode():
        for count in (0, *counts):
            seconds(count, WARM)
            short = seconds(count, WARM)
            speeds[str(count)] = rows * (LONG - WARM) / (seconds(count, LONG) - short)
    return speeds
