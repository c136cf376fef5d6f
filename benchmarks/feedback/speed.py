"""One correction, from call to a saved, servable version, beside PEFT with `transformers.Trainer`."""

import io
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.harness import Claim, Spread, fresh, interleave, ratios

PROMPTS = [f"{what}, number {i}" for i in range(4) for what in ("Where is my parcel", "Cancel my plan")]
WARM = 2
"""Corrections before the clock starts."""


def claims(model: str, repeats: int) -> list[Claim]:
    first = fresh(ours, model=model)()
    steps = round(median(first["steps"]))
    arms = {"ours": fresh(ours, model=model)}
    arms |= {n: fresh(peer, model=model, steps=steps, tuned=n == "tuned") for n in ("default", "tuned")}
    found = interleave(arms, repeats)
    seconds = {name: [s for run in runs for s in run["seconds"]] for name, runs in found.items()}
    middle = {name: [median(run["seconds"]) for run in runs] for name, runs in found.items()}
    slowest = quantiles(seconds["ours"], n=20)[-1]
    return [
        Claim(
            "one correction: times faster than Trainer, defaults",
            Spread.of(ratios(middle["default"], middle["ours"])),
            at_least=4.0,
        ),
        Claim(
            "one correction: times faster than Trainer, tuned",
            Spread.of(ratios(middle["tuned"], middle["ours"])),
            at_least=1.8,
        ),
        Claim("one correction, p50", Spread.of(middle["ours"]), unit=" s"),
        Claim("one correction, p95", Spread.of([slowest]), unit=" s"),
        Claim("one correction, Trainer, defaults", Spread.of(middle["default"]), unit=" s"),
        Claim("one correction, Trainer, tuned", Spread.of(middle["tuned"]), unit=" s"),
        Claim("optimizer steps of every arm", Spread.of([steps])),
    ]


def ours(model: str) -> dict[str, Any]:
    """Seconds and steps of each correction, on a warm engine with its store on disk."""
    from ouroboros import AdapterConfig, FeedbackSignal, open_sync_engine

    seconds, steps = [], []
    with tempfile.TemporaryDirectory() as folder, open_sync_engine(store=folder, model=model) as engine:
        base = engine.base().unwrap()
        engine.create_adapter("tickets", AdapterConfig.auto(base)).unwrap()
        for prompt in PROMPTS:
            said = engine.generate_with_adapter(prompt, "tickets").unwrap()
            signal = FeedbackSignal.user_correction(_answer(prompt))
            started = time.perf_counter()
            version = engine.learn_from_feedback(prompt, said, signal, "tickets").unwrap().version
            seconds.append(time.perf_counter() - started)
            assert version is not None
            assert version.report is not None
            steps.append(version.report.steps)
    return {"seconds": seconds[WARM:], "steps": steps[WARM:]}


def peer(model: str, steps: int, tuned: bool) -> dict[str, Any]:
    """The same corrections by `Trainer` on a warm PEFT model: cross-entropy on the corrected answer.

    Tuned means bfloat16 weights where the processor multiplies them natively, and no logging, progress,
    evaluation or checkpoint. It gets the steps that we took, and does nothing to keep other answers.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ouroboros.backend.local.load import compute_dtype
    from ouroboros.starter import starter_path

    source = str(starter_path()) if model == "starter" else model
    dtype = compute_dtype("auto", torch.device("cpu")) if tuned else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(source)
    base = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    shape = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    network = get_peft_model(base, shape)
    seconds = []
    for prompt in PROMPTS:
        started = time.perf_counter()
        _train(network, _row(tokenizer, prompt), steps, tuned)
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds[WARM:]}


def _train(network: Any, row: dict[str, list[int]], steps: int, tuned: bool) -> None:
    from transformers import Trainer, TrainingArguments

    quiet: dict[str, Any] = (
        {"logging_strategy": "no", "disable_tqdm": True, "save_strategy": "no"} if tuned else {}
    )
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
