"""A simulated user on an intent stream: accuracy against the number of judgements.

The adapter starts from a few examples of eight HWU64 intents and then answers a stream of new questions.
The user knows the right intent and reacts: by correcting ("corrections"), by thumbs ("thumbs"), or by
either at random ("mixed"). "naive" is what DESIGN warns of: every thumb trains *towards* the answer with
weight |score|, wrong answers too.
"""

import asyncio
import random
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.feedback.effects import SHORT, answer
from benchmarks.harness import Claim, Spread
from ouroboros.backend.base import Backend, UpdateJob
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row, TrainingExample
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.names import AdapterId
from ouroboros.domain.weights import AdapterFiles
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata

INTENTS, STARTERS, TEST, BURST = 8, 3, 64, 8
NAME = AdapterId("intents")
Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Stream:
    """Questions with their right intents: to start from, to react to, and to be judged by."""

    start: tuple[TrainingExample, ...]
    questions: tuple[TrainingExample, ...]
    test: tuple[TrainingExample, ...]


def claims(model: str, folder: Path, events: int, plot: Path) -> list[Claim]:
    curves = asyncio.run(_curves(model, _stream(folder, events)))
    _draw(curves, plot)
    last = {name: curve[-1][1] for name, curve in curves.items()}
    shown = [
        Claim(f"accuracy after {events} judgements, {name}", Spread.of([100 * value]), unit="%")
        for name, value in last.items()
    ]
    ahead = [
        Claim(
            f"points that {name} is ahead of naive",
            Spread.of([100 * (last[name] - last["naive"])]),
            at_least=0.0,
        )
        for name in ("corrections", "thumbs", "mixed")
    ]
    return [*ahead, *shown]


async def _curves(model: str, stream: Stream) -> dict[str, Curve]:
    from ouroboros.backend.local import LocalBackend

    backend = LocalBackend.open(model)
    config = AdapterConfig.auto(await backend.base())
    fresh = await backend.initialize(config, 0)
    curves = {
        name: await _engine_curve(backend, config, fresh, stream, react)
        for name, react in _REACTIONS.items()
    }
    _, _, start = await start_engine(backend, config, fresh, stream)
    curves["naive"] = await _naive_curve(backend, config, start, stream)
    await backend.close()
    return curves


async def start_engine(
    backend: Backend, config: AdapterConfig, fresh: AdapterFiles, stream: Stream
) -> tuple[AdapterLearningEngine, Registry, AdapterFiles]:
    """An engine whose one adapter has learned the first examples, and that adapter's files."""
    registry = Registry(open_metadata("memory:"), open_blobs("memory:"))
    registry.create_adapter(NAME, config, await backend.base(), fresh)
    engine = AdapterLearningEngine(backend, registry)
    training = TrainingConfig.auto(len(stream.start))
    version = (await engine.train_adapter(NAME, stream.start, training)).unwrap()
    return engine, registry, registry.load_files(version)


async def _engine_curve(
    backend: Backend,
    config: AdapterConfig,
    fresh: AdapterFiles,
    stream: Stream,
    react: "React",
) -> Curve:
    engine, registry, start = await start_engine(backend, config, fresh, stream)
    chance = random.Random(1)

    async def teach(files: AdapterFiles, questions: Sequence[TrainingExample]) -> AdapterFiles:
        tickets = []
        for example in questions:
            generation = (await engine.generate_with_adapter(example.input, NAME, SHORT)).unwrap()
            signal = react(generation.text.strip(), example.output, chance)
            judged = (
                generation if generation.text.strip() else "no answer"
            )  # feedback on nothing is refused
            ticket = await engine.learn_from_feedback(example.input, judged, signal, NAME, wait=False)
            tickets.append(ticket.unwrap())
        done = [(await engine.feedback_outcome(ticket)).unwrap() for ticket in tickets]
        version = done[-1].version
        return registry.load_files(version) if version else files

    return await _curve(backend, start, stream, teach)


async def _naive_curve(
    backend: Backend, config: AdapterConfig, start: AdapterFiles, stream: Stream
) -> Curve:
    async def teach(files: AdapterFiles, questions: Sequence[TrainingExample]) -> AdapterFiles:
        answers = await answer(backend, files, [str(e.input) for e in questions])
        rows = tuple(Row(e.input, text or " ") for e, text in zip(questions, answers, strict=True))
        return (await backend.update(UpdateJob(files, config, rows, stream.start))).files

    return await _curve(backend, start, stream, teach)


async def _curve(
    backend: Backend,
    files: AdapterFiles,
    stream: Stream,
    teach: Callable[[AdapterFiles, Sequence[TrainingExample]], Awaitable[AdapterFiles]],
) -> Curve:
    """Accuracy before, and after each burst of judgements."""
    curve = [(0, await _accuracy(backend, files, stream))]
    for at in range(0, len(stream.questions), BURST):
        questions = stream.questions[at : at + BURST]
        files = await teach(files, questions)
        curve.append((at + len(questions), await _accuracy(backend, files, stream)))
        print(f"  {curve[-1][0]} judgements: {curve[-1][1]:.2f}", file=sys.stderr, flush=True)
    return curve


async def _accuracy(backend: Backend, files: AdapterFiles, stream: Stream) -> float:
    answers = await answer(backend, files, [str(e.input) for e in stream.test])
    right = [text == e.output for text, e in zip(answers, stream.test, strict=True)]
    return sum(right) / len(right)


def _correct(answer_text: str, right: str, chance: random.Random) -> FeedbackSignal:
    return FeedbackSignal.user_correction(right)


def _thumb(answer_text: str, right: str, chance: random.Random) -> FeedbackSignal:
    return FeedbackSignal.success() if answer_text == right else FeedbackSignal.failure()


def _either(answer_text: str, right: str, chance: random.Random) -> FeedbackSignal:
    return chance.choice((_correct, _thumb))(answer_text, right, chance)


React = Callable[[str, str, random.Random], FeedbackSignal]
_REACTIONS: dict[str, React] = {"corrections": _correct, "thumbs": _thumb, "mixed": _either}


def _stream(folder: Path, events: int) -> Stream:
    """The most frequent intents, drawn evenly; the same every time."""
    train, test = _read(folder / "train"), _read(folder / "test")
    names = sorted(train, key=lambda name: (-len(train[name]), name))[:INTENTS]
    chance = random.Random(0)
    drawn = {name: chance.sample(train[name], STARTERS + -(-events // INTENTS)) for name in names}
    questions = [e for name in names for e in drawn[name][STARTERS:]]
    chance.shuffle(questions)
    return Stream(
        start=tuple(e for name in names for e in drawn[name][:STARTERS]),
        questions=tuple(questions[:events]),
        test=tuple(e for name in names for e in test[name][: TEST // INTENTS]),
    )


def _read(folder: Path) -> dict[str, list[TrainingExample]]:
    """Examples by intent, from the two files that the data set comes in: `seq.in` and `label`."""
    texts = (folder / "seq.in").read_text().splitlines()
    labels = (folder / "label").read_text().splitlines()
    by_intent: dict[str, list[TrainingExample]] = defaultdict(list)
    for text, label in zip(texts, labels, strict=True):
        example = TrainingExample(text.strip(), label.strip())
        if example not in by_intent[label.strip()]:
            by_intent[label.strip()].append(example)
    return by_intent


def _draw(curves: dict[str, Curve], plot: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(*zip(*curve, strict=True), label=name, marker=".")
    axes.set(xlabel="judgements", ylabel="accuracy on unseen questions", ylim=(0, 1))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(plot, dpi=150)
