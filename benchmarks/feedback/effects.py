"""What one judgement does to its prompt, to paraphrases of it, and to everything else."""

import asyncio
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path

from benchmarks.harness import Claim, Spread
from ouroboros.backend.base import Backend, GenerateRequest, ScoreRequest
from ouroboros.data.examples import read_examples
from ouroboros.domain.config import ALL, ANSWER, AdapterConfig, TrainingConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.generation import GenerationConfig
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.weights import AdapterFiles
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata

DATA = Path(__file__).parents[2] / "examples" / "data"
TASKS = ("tickets", "commands", "reviews")
SHORT = GenerationConfig(max_tokens=12)
FOREIGN = 5
NAME = AdapterId("task")


@dataclass(frozen=True)
class BenchmarkTask:
    """An adapter that was trained on a task, from `start`, and how it answers prompts that it was not
    trained on: the task's own, and `foreign` ones, of other tasks."""

    config: AdapterConfig
    training: TrainingConfig
    start: AdapterFiles
    files: AdapterFiles
    examples: tuple[TrainingExample, ...]
    answers: dict[str, str]
    right: dict[str, str]
    foreign: dict[str, str]


@dataclass
class EffectTally:
    """Successes and trials by name."""

    outcomes: dict[str, list[bool]] = field(default_factory=dict)

    def add(self, name: str, *outcomes: bool) -> None:
        self.outcomes.setdefault(name, []).extend(outcomes)

    def percent(self, name: str) -> Spread:
        outcomes = self.outcomes[name]
        return Spread.of([100 * sum(outcomes) / len(outcomes)])


def claims(model: str, cases: int, answer_only: bool = False, seed: int = 0) -> list[Claim]:
    return asyncio.run(_claims(model, cases, ANSWER if answer_only else ALL, seed))


async def _claims(model: str, cases: int, acts_on: str, seed: int) -> list[Claim]:
    from ouroboros.backend.local import LocalBackend

    backend = LocalBackend.open(model)
    tasks = [await prepare(backend, name, acts_on, seed) for name in TASKS]
    tally = EffectTally()
    kinds = {"correction": _correct, "failure": _blame, "pair": _prefer}
    for kind, judge in kinds.items():
        print(f"  {cases} of {kind}", file=sys.stderr, flush=True)
        for task, prompt, other in _cases(tasks, cases):
            await judge(backend, task, prompt, other, tally)
    await backend.close()
    return summarise_tally(tally)


def summarise_tally(tally: EffectTally) -> list[Claim]:
    rows: list[tuple[str, str, float | None]] = [
        ("a corrected prompt gives the corrected answer", "corrected", 95),
        ("a paraphrase of it does", "paraphrased", 60),
        ("a failed answer's probability falls", "fell", 100),
        ("a preference pair's margin rises", "rose", 100),
    ]
    for kind in ("correction", "failure", "pair"):
        rows += [
            (f"{kind}: an unseen prompt of the task keeps its answer", kind, 98),
            (f"{kind}: a prompt of another task does", f"{kind}, foreign", 98),
            (f"{kind}: of the task, where both answers are others", f"{kind}, apart", None),
            (f"{kind}: of the task, where they are not", f"{kind}, akin", None),
        ]
    return [
        Claim(text, tally.percent(name), at_least=bound, unit="%")
        for text, name, bound in rows
        if name in tally.outcomes
    ]


async def prepare(backend: Backend, name: str, acts_on: str = ALL, seed: int = 0) -> BenchmarkTask:
    """Train an adapter on a bundled task, as `ouroboros train` would."""
    examples = tuple(read_examples(DATA / name / "train.jsonl"))
    heldout = read_examples(DATA / name / "heldout.jsonl")
    config = AdapterConfig.auto(await backend.base(), acts_on=acts_on)
    registry = Registry(open_metadata("memory:"), open_blobs("memory:"))
    engine = AdapterLearningEngine(backend, registry)
    first = (await engine.create_adapter(NAME, config)).unwrap()
    training = replace(TrainingConfig.auto(len(examples)), seed=seed)
    trained = (await engine.train_adapter(NAME, examples, training)).unwrap()
    files = registry.load_files(trained)
    right = {str(e.input): e.output for e in heldout}
    return BenchmarkTask(
        config,
        training,
        registry.load_files(registry.get_version(VersionRef(NAME, first.head))),
        files,
        examples,
        await answers_to(backend, files, list(right)),
        right,
        await answers_to(backend, files, _foreign(name)),
    )


def _foreign(name: str) -> list[str]:
    """Prompts of the other tasks."""
    rows = [read_examples(DATA / other / "heldout.jsonl")[:FOREIGN] for other in TASKS if other != name]
    return [str(example.input) for row in rows for example in row]


async def answers_to(backend: Backend, files: AdapterFiles, prompts: list[str]) -> dict[str, str]:
    return dict(zip(prompts, await answer(backend, files, prompts), strict=True))


async def answer(backend: Backend, files: AdapterFiles, prompts: list[str]) -> list[str]:
    digest = await backend.load(files)
    generations = await backend.generate([GenerateRequest(p, SHORT, digest) for p in prompts])
    return [g.text.strip() for g in generations]


def _cases(tasks: list[BenchmarkTask], count: int) -> Iterator[tuple[BenchmarkTask, str, str]]:
    """A task, a prompt of it, and another answer than the one that the adapter gives."""
    chance = random.Random(0)
    remaining = {id(task): chance.sample(sorted(task.answers), len(task.answers)) for task in tasks}
    for _, task in zip(range(count), cycle(tasks), strict=False):
        prompts = remaining[id(task)]
        prompt = prompts.pop() if prompts else chance.choice(sorted(task.answers))
        answer_text, right = task.answers[prompt], task.right[prompt]
        others = sorted(set(task.right.values()) - {answer_text})
        yield task, prompt, right if right != answer_text else chance.choice(others)


async def learn_judgement(
    backend: Backend, task: BenchmarkTask, prompt: str, generation: str, signal: FeedbackSignal
) -> AdapterFiles:
    """The adapter after one judgement, given to a copy of its own."""
    registry = Registry(open_metadata("memory:"), open_blobs("memory:"))
    adapter = registry.create_adapter(NAME, task.config, await backend.base(), task.start)
    entry = registry.journal.append_examples(NAME, task.examples)
    registry.commit_version(
        NAME, task.files, parent=adapter.head, cause="trained", training=task.training, events=entry
    )
    engine = AdapterLearningEngine(backend, registry)
    ticket = (await engine.learn_from_feedback(prompt, generation, signal, NAME)).unwrap()
    assert ticket.version is not None
    return registry.load_files(ticket.version)


async def _correct(
    backend: Backend, task: BenchmarkTask, prompt: str, other: str, tally: EffectTally
) -> None:
    signal = FeedbackSignal.user_correction(other)
    files = await learn_judgement(backend, task, prompt, task.answers[prompt], signal)
    first, *rest = await answer(backend, files, [prompt, *paraphrases(prompt)])
    tally.add("corrected", first == other)
    tally.add("paraphrased", *(text == other for text in rest))
    await count_unchanged(backend, task, files, (prompt, other), tally, "correction")


async def _blame(
    backend: Backend, task: BenchmarkTask, prompt: str, other: str, tally: EffectTally
) -> None:
    answer_text = task.answers[prompt]
    files = await learn_judgement(backend, task, prompt, answer_text, FeedbackSignal.failure())
    tally.add(
        "fell",
        await _total(backend, files, prompt, answer_text)
        < await _total(backend, task.files, prompt, answer_text),
    )
    await count_unchanged(backend, task, files, (prompt, other), tally, "failure")


async def _prefer(
    backend: Backend, task: BenchmarkTask, prompt: str, other: str, tally: EffectTally
) -> None:
    answer_text = task.answers[prompt]
    files = await learn_judgement(
        backend, task, prompt, answer_text, FeedbackSignal.preference_pair(other, answer_text)
    )
    before, after = [
        await _total(backend, f, prompt, other) - await _total(backend, f, prompt, answer_text)
        for f in (task.files, files)
    ]
    tally.add("rose", after > before)
    await count_unchanged(backend, task, files, (prompt, other), tally, "pair")


async def _total(backend: Backend, files: AdapterFiles, prompt: str, text: str) -> float:
    (score,) = await backend.score([ScoreRequest(prompt, text, await backend.load(files))])
    return score.total


async def count_unchanged(
    backend: Backend,
    task: BenchmarkTask,
    files: AdapterFiles,
    judged: tuple[str, str],
    tally: EffectTally,
    kind: str,
) -> None:
    """All prompts but the judged one: those that were, or would be, answered like it stand apart."""
    prompt, other = judged
    involved = (task.answers[prompt], other)
    for p, unchanged in (await _same(backend, files, task.answers)).items():
        if p != prompt:
            tally.add(kind, unchanged)
            tally.add(f"{kind}, {'akin' if task.answers[p] in involved else 'apart'}", unchanged)
    tally.add(f"{kind}, foreign", *(await _same(backend, files, task.foreign)).values())


async def _same(backend: Backend, files: AdapterFiles, answers: dict[str, str]) -> dict[str, bool]:
    """Which prompts are still answered as before."""
    now = await answers_to(backend, files, list(answers))
    return {prompt: now[prompt] == text for prompt, text in answers.items()}


def paraphrases(prompt: str) -> list[str]:
    plain = prompt.rstrip(".?! ")
    return [
        f"Hello, {prompt[0].lower()}{prompt[1:]}",
        f"{plain}, thanks.",
        plain.lower(),
        f"Could you help me? {prompt}",
    ]
