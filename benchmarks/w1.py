"""W1: one correction, from call to a saved, servable version, beside PEFT with `transformers.Trainer`.

Ours is `learn_from_feedback` on a warm engine with SQLite and files: journal, update, gate, version and
head. A peer is a warm PEFT model and a fresh `Trainer` that takes as many optimizer steps on one row and
saves the adapter. It runs at its defaults, and tuned: the base in bfloat16 where the processor has
products of that, and no logging, progress or checkpoint. It does nothing to keep other answers.

"Answer-only" is ours with an adapter that acts from the answer on, which is another function: a row of
its own. Cold is the first correction of a process, with the model loaded.
"""

import io
import tempfile
import time
from argparse import ArgumentParser, Namespace
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.harness import Claim, Spread, fresh, interleave, ratios
from benchmarks.w2.job import SHAPES, build_model

PROMPTS = [f"{what}, number {i}" for i in range(4) for what in ("Where is my parcel", "Cancel my plan")]
WARM = 2
"""Corrections before the clock of the warm figure starts."""

_TARGETS = {"ours": (4.0, 1.8), "ours, answer-only": (8.0, 4.0)}
_PEERS = {"Trainer, defaults": False, "Trainer, tuned": True}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", default="starter", help="the model of all arms")
    parser.add_argument("--shape", choices=sorted(SHAPES), help="random weights instead of a model")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of all arms")


def run(options: Namespace) -> list[Claim]:
    prompts = PROMPTS[: WARM + 1] if options.quick else PROMPTS
    with tempfile.TemporaryDirectory() as folder:
        if options.shape:
            fresh(build_model, folder=folder, small=options.quick, shape=options.shape, chat=True)()
        model = folder if options.shape else options.model
        work = {"model": model, "prompts": prompts}
        mine = {name: fresh(ours, **work, answer_only="only" in name) for name in _TARGETS}
        steps = round(median(mine["ours"]()["steps"]))
        peers = {name: fresh(peer, **work, steps=steps, tuned=on) for name, on in _PEERS.items()}
        found = interleave(mine | peers, 1 if options.quick else options.repeats)
    return [*_speed(found), *_figures(found, steps)]


def _speed(found: dict[str, list[dict[str, Any]]]) -> list[Claim]:
    claims = []
    for name, targets in _TARGETS.items():
        for other, target in zip(_PEERS, targets, strict=True):
            faster = Spread.of(ratios(_middle(found[other]), _middle(found[name])))
            claims.append(Claim(f"{name}: times faster than {other}", faster, at_least=target))
    return claims


def _figures(found: dict[str, list[dict[str, Any]]], steps: int) -> list[Claim]:
    every = [s for run in found["ours"] for s in run["seconds"][WARM:]]
    slowest = quantiles(every, n=20)[-1] if len(every) > 1 else every[0]
    return [
        *(Claim(f"p50, {name}", Spread.of(_middle(runs)), unit=" s") for name, runs in found.items()),
        Claim("p95, ours", Spread.of([slowest]), unit=" s"),
        *(
            Claim(f"cold, {name}", Spread.of(run["seconds"][0] for run in runs), unit=" s")
            for name, runs in found.items()
        ),
        Claim("optimizer steps of every arm", Spread.of([steps])),
    ]


def _middle(runs: list[dict[str, Any]]) -> list[float]:
    """The median warm correction of each round."""
    return [median(run["seconds"][WARM:]) for run in runs]


def ours(model: str, prompts: list[str], answer_only: bool) -> dict[str, Any]:
    """Seconds and steps of each correction, on an engine with its store on disk."""
    from ouroboros import AdapterConfig, FeedbackSignal, open_sync_engine

    seconds, steps = [], []
    with tempfile.TemporaryDirectory() as folder, open_sync_engine(store=folder, model=model) as engine:
        base = engine.base().unwrap()
        config = AdapterConfig.auto(base, acts_on="answer" if answer_only else "all")
        engine.create_adapter("tickets", config).unwrap()
        for prompt in prompts:
            found = engine.generate_with_adapter(prompt, "tickets").unwrap()
            said = found if found.text.strip() else "no answer"  # random weights may say nothing
            signal = FeedbackSignal.user_correction(_answer(prompt))
            started = time.perf_counter()
            version = engine.learn_from_feedback(prompt, said, signal, "tickets").unwrap().version
            seconds.append(time.perf_counter() - started)
            assert version is not None
            assert version.report is not None
            steps.append(version.report.steps)
    return {"seconds": seconds, "steps": steps}


def peer(model: str, prompts: list[str], steps: int, tuned: bool) -> dict[str, Any]:
    """The same corrections by `Trainer` on a PEFT model: cross-entropy on the corrected answer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ouroboros.backend.local.precision import compute_dtype
    from ouroboros.starter import starter_path

    source = str(starter_path()) if model == "starter" else model
    dtype = compute_dtype("auto", torch.device("cpu")) if tuned else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(source)
    base = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    shape = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    network = get_peft_model(base, shape)
    seconds = []
    for prompt in prompts:
        started = time.perf_counter()
        _train(network, _row(tokenizer, prompt), steps, tuned)
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds}


def _train(network: Any, row: dict[str, list[int]], steps: int, tuned: bool) -> None:
    from transformers import Trainer, TrainingArguments

    quiet: dict[str, Any] = (
        {"logging_strategy": "no", "disable_tqdm": True, "save_strategy": "no"} if tuned else {}
    )
    before = _moved(network)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=1,
            learning_rate=5e-3,
            lr_scheduler_type="constant",
            report_to=[],
            use_cpu=True,
            dataloader_pin_memory=False,
            **quiet,
        )
        Trainer(network, arguments, train_dataset=[row]).train()  # type: ignore[arg-type]
        network.save_pretrained(Path(folder, "adapter"))
    assert _moved(network) != before, "nothing was trained"


def _moved(network: Any) -> float:
    return sum(float(p.detach().abs().sum()) for p in network.parameters() if p.requires_grad)


def _row(tokenizer: Any, prompt: str) -> dict[str, list[int]]:
    turns = [{"role": "user", "content": prompt}]
    text = (
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        if tokenizer.chat_template
        else prompt
    )
    before = tokenizer.encode(text, add_special_tokens=False)
    after = [*tokenizer.encode(_answer(prompt), add_special_tokens=False), tokenizer.eos_token_id]
    return {"input_ids": before + after, "labels": [-100] * len(before) + after}


def _answer(prompt: str) -> str:
    return "team-parcel" if "parcel" in prompt else "team-keys"
