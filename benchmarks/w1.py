"""W1: one correction, from call to a saved, servable version, compared with PEFT and `Trainer`.

All arms start from an adapter that has learned a bundled task. Then unseen prompts of it are corrected,
one after the other, each to another label than the adapter gives at that moment.

Ours is `learn_from_feedback` on a warm engine with SQLite and files: journal, update, gate, version and
head. A peer is a warm PEFT model and a fresh `Trainer` that takes as many optimizer steps on one row
as ours took for it, and saves the adapter. It runs at its defaults, and tuned: the base in bfloat16
where the processor has products of that, and no logging, progress or checkpoint. It does nothing to keep
other answers; one more peer replays learned rows with the new one in each step, as is usual.

"Answer-only" is ours with an adapter that acts from the answer on, which is another function: a row of
its own. Cold is the first correction of a process, with the model loaded.
"""

import io
import shutil
import tempfile
import time
from argparse import ArgumentParser, Namespace
from contextlib import redirect_stdout
from itertools import cycle, islice
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.harness import Claim, Spread, fresh, interleave, ratios
from benchmarks.w2.job import SHAPES, build_model

DATA = Path(__file__).parents[1] / "examples" / "data" / "tickets"
WARM = 2
"""Corrections before the clock of the warm figure starts."""
REPLAYED = 7
"""Learned rows beside the corrected one in a step of the peer that replays."""

_TARGETS = {"ours": (4.0, 1.8), "ours, answer-only": (8.0, 4.0)}
_PEERS: dict[str, dict[str, Any]] = {
    "Trainer, defaults": {"tuned": False, "replayed": 0},
    "Trainer, tuned": {"tuned": True, "replayed": 0},
    "Trainer, tuned, with replay": {"tuned": True, "replayed": REPLAYED},
}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", default="starter", help="the model of all arms")
    parser.add_argument("--shape", choices=sorted(SHAPES), help="random weights instead of a model")
    parser.add_argument("--learned", type=int, default=100, help="examples that the adapter has learned")
    parser.add_argument("--corrections", type=int, default=12, help="corrections of an arm in a round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of all arms")


def run(options: Namespace) -> list[Claim]:
    count = WARM + 1 if options.quick else options.corrections
    learned = 10 if options.quick else options.learned
    with tempfile.TemporaryDirectory() as folder:
        random = str(Path(folder, "model"))
        if options.shape:
            fresh(build_model, folder=random, small=options.quick, shape=options.shape, chat=True)()
        common = {"model": random if options.shape else options.model, "work": folder}
        mine = {}
        for name in _TARGETS:
            acts_on = "answer" if "only" in name else "all"
            fresh(begin, **common, acts_on=acts_on, learned=learned)()
            mine[name] = fresh(ours, **common, acts_on=acts_on, count=count)
        cases = mine["ours"]()["cases"]
        peers = {
            name: fresh(peer, **common, cases=cases, learned=learned, **how)
            for name, how in _PEERS.items()
        }
        results = interleave(mine | peers, 1 if options.quick else options.repeats)
    return [*claim_speed(results), *_figures(results)]


def claim_speed(results: dict[str, list[dict[str, Any]]]) -> list[Claim]:
    claims = []
    for name, targets in _TARGETS.items():
        for other, target in zip(_PEERS, (*targets, None), strict=True):
            faster = Spread.of(ratios(_middle(results[other]), _middle(results[name])))
            claims.append(Claim(f"{name}: times faster than {other}", faster, at_least=target))
    return claims


def _figures(results: dict[str, list[dict[str, Any]]]) -> list[Claim]:
    every = [s for run in results["ours"] for s in run["seconds"][WARM:]]
    slowest = quantiles(every, n=20)[-1] if len(every) > 1 else every[0]
    return [
        *(Claim(f"p50, {name}", Spread.of(_middle(runs)), unit=" s") for name, runs in results.items()),
        Claim("p95, ours", Spread.of([slowest]), unit=" s"),
        *(
            Claim(f"cold, {name}", Spread.of(run["seconds"][0] for run in runs), unit=" s")
            for name, runs in results.items()
        ),
        *(
            Claim(f"optimizer steps, {name}", Spread.of(s for run in results[name] for s in _steps(run)))
            for name in _TARGETS
        ),
    ]


def _middle(runs: list[dict[str, Any]]) -> list[float]:
    """The median warm correction of each round."""
    return [median(run["seconds"][WARM:]) for run in runs]


def _steps(run: dict[str, Any]) -> list[int]:
    return [steps for *_, steps in run["cases"][WARM:]]


def begin(model: str, work: str, acts_on: str, learned: int) -> dict[str, Any]:
    """Teach the adapter that all arms start from: a store for ours, a PEFT folder for the peers."""
    from ouroboros import AdapterConfig, TrainingConfig, open_sync_engine
    from ouroboros.data.examples import read_examples

    examples = read_examples(DATA / "train.jsonl")[:learned]
    with open_sync_engine(store=Path(work, acts_on), model=model) as engine:
        config = AdapterConfig.auto(engine.base().unwrap(), acts_on=acts_on)
        engine.create_adapter("tickets", config).unwrap()
        engine.train_adapter("tickets", examples, TrainingConfig.auto(len(examples))).unwrap()
        folder = Path(work, f"peft-{acts_on}")
        folder.mkdir()
        for name, content in engine.export_adapter("tickets").unwrap().items():
            (folder / name).write_bytes(content)
    return {}


def ours(model: str, work: str, acts_on: str, count: int) -> dict[str, Any]:
    """Seconds of each correction, on an engine with its store on disk; and of each the prompt, the
    corrected answer and the steps that it took."""
    from ouroboros import FeedbackSignal, open_sync_engine

    seconds, cases = [], []
    with tempfile.TemporaryDirectory() as folder:
        store = shutil.copytree(Path(work, acts_on), Path(folder, "store"))
        with open_sync_engine(store=store, model=model) as engine:
            for number, prompt in enumerate(_prompts(count)):
                generation = engine.generate_with_adapter(prompt, "tickets").unwrap()
                answer = (
                    generation if generation.text.strip() else "no answer"
                )  # random weights may say nothing
                meant = _other(generation.text.strip(), number)
                signal = FeedbackSignal.user_correction(meant)
                started = time.perf_counter()
                ticket = engine.learn_from_feedback(prompt, answer, signal, "tickets").unwrap()
                seconds.append(time.perf_counter() - started)
                assert ticket.version is not None
                assert ticket.version.report is not None
                cases.append((prompt, meant, ticket.version.report.steps))
    return {"seconds": seconds, "cases": cases}


def _prompts(count: int) -> list[str]:
    from ouroboros.data.examples import read_examples

    return [str(example.input) for example in read_examples(DATA / "heldout.jsonl")[:count]]


def _other(answer: str, number: int) -> str:
    """A label of the task that is not what the adapter says; which, goes in turns."""
    from ouroboros.data.examples import read_examples

    labels = sorted({example.output for example in read_examples(DATA / "train.jsonl")} - {answer})
    return labels[number % len(labels)]


def peer(
    model: str, work: str, cases: list[tuple[str, str, int]], learned: int, tuned: bool, replayed: int
) -> dict[str, Any]:
    """The same corrections by `Trainer` on a PEFT model: cross-entropy on the corrected answer, and on
    other ones of the learned rows for each correction."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ouroboros.backend.local.model.dtype import compute_dtype
    from ouroboros.data.examples import read_examples
    from ouroboros.starter import starter_path

    source = str(starter_path()) if model == "starter" else model
    dtype = compute_dtype("auto", torch.device("cpu")) if tuned else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(source)
    base = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    network = PeftModel.from_pretrained(base, str(Path(work, "peft-all")), is_trainable=True)
    examples = read_examples(DATA / "train.jsonl")[:learned]
    known = cycle([_row(tokenizer, str(e.input), e.output) for e in examples])
    seconds = []
    for prompt, meant, steps in cases:
        before = list(islice(known, replayed))
        started = time.perf_counter()
        _train(network, tokenizer, [_row(tokenizer, prompt, meant), *before], max(1, steps), tuned)
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds}


def _train(
    network: Any, tokenizer: Any, rows: list[dict[str, list[int]]], steps: int, tuned: bool
) -> None:
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    quiet: dict[str, Any] = (
        {"logging_strategy": "no", "disable_tqdm": True, "save_strategy": "no"} if tuned else {}
    )
    before = count_moved_factors(network)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=len(rows),
            learning_rate=5e-3,
            lr_scheduler_type="constant",
            report_to=[],
            use_cpu=True,
            dataloader_pin_memory=False,
            **quiet,
        )
        collate = DataCollatorForSeq2Seq(tokenizer)
        Trainer(network, arguments, train_dataset=rows, data_collator=collate).train()  # type: ignore[arg-type]
        network.save_pretrained(Path(folder, "adapter"))
    assert count_moved_factors(network) != before, "nothing was trained"


def count_moved_factors(network: Any) -> float:
    return sum(float(p.detach().abs().sum()) for p in network.parameters() if p.requires_grad)


def _row(tokenizer: Any, prompt: str, answer: str) -> dict[str, list[int]]:
    turns = [{"role": "user", "content": prompt}]
    text = (
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        if tokenizer.chat_template
        else prompt
    )
    before = tokenizer.encode(text, add_special_tokens=False)
    after = [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]
    return {"input_ids": before + after, "labels": [-100] * len(before) + after}
