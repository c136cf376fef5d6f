"""Bad teachers: a stream with some answers flipped, and one user who floods, with the gate and without.

A promotion hurts when the version that it put in service does worse on the whole test sets of earlier
stages than the one before it, by more than is tolerated and by more than chance.
"""

import asyncio
import random
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.continual.streams import Cut, Stage, stream
from benchmarks.continual.watch import GATE, NAME, OPEN, Update, Watched, earlier
from benchmarks.harness import Claim, Spread
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.learning.feedback.rate_limit import UserLimit

SHARES = (0.0, 0.01, 0.05, 0.1)
"""Of a stream's training rows, flipped."""

FLOOD = 100
"""Judgements of the one user; more than one person may teach at once."""

KEPT = 0.2
"""Of the stream's rows, at most this share is remembered for replay."""

ARMS = {"with the gate": (GATE, UserLimit()), "without": (OPEN, UserLimit(events=0))}


@dataclass(frozen=True)
class Run:
    """What became of one stream: its updates, and how well the end knows every stage."""

    updates: list[Update]
    accuracy: float


def flipped(stages: Sequence[Stage], share: float, seed: int) -> list[Stage]:
    """The stages with a share of the answers taught exchanged for another that the stream has so far.

    The tests stay right. At least one row of each stage is flipped, if any share is.
    """
    chance, answers, found = random.Random(seed), dict[str, None](), []
    for stage in stages:
        answers |= dict.fromkeys(e.output for e in stage.train)
        count = max(1, round(share * len(stage.train))) if share else 0
        wrong = set(chance.sample(range(len(stage.train)), count))
        rows = tuple(
            _flip(e, list(answers), chance) if i in wrong else e for i, e in enumerate(stage.train)
        )
        found.append(replace(stage, train=rows))
    return found


def _flip(example: TrainingExample, answers: Sequence[str], chance: random.Random) -> TrainingExample:
    return TrainingExample(
        example.input, chance.choice([a for a in answers if a != example.output] or answers)
    )


async def poisoned(watched: Watched, stages: Sequence[Stage], share: float, seed: int) -> Run:
    """Teach a stream, some of it flipped, stage by stage."""
    updates = [
        await watched.teach(stage.train, known, seed)
        for stage, known in earlier(flipped(stages, share, seed))
    ]
    return Run(updates, await watched.accuracy(tests(stages)))


async def flooded(watched: Watched, stages: Sequence[Stage], count: int) -> Run:
    """One user corrects answers to what was taught, always to the same wrong one."""
    taught = [e for stage in stages for e in stage.train]
    wrong = taught[-1].output
    others = [e for e in taught if e.output != wrong]
    last = watched.registry.list_versions(NAME)[-1].number
    for example in random.Random(0).sample(others, min(count, len(others))):
        signal = FeedbackSignal.user_correction(wrong)
        ticket = await watched.engine.learn_from_feedback(
            example.input, example.output, signal, NAME, user="mallory", wait=False
        )
        ticket.unwrap()
    (await watched.engine.learn_pending(NAME)).unwrap()
    made = [v for v in watched.registry.list_versions(NAME) if v.number > last]
    updates = [await watched.update(v, tests(stages)) for v in made]
    return Run(updates, await watched.accuracy(tests(stages)))


def tests(stages: Sequence[Stage]) -> list[TrainingExample]:
    return [example for stage in stages for example in stage.test]


def run(options: Namespace) -> list[Claim]:
    """Teach the stream clean, flipped and flooded, by each of the arms, on every seed."""
    cut = Cut(options.stages, options.classes, options.rows, options.test)
    streams = [stream(options.stream, cut, seed) for seed in range(options.seeds)]
    return asyncio.run(_claims(options.model, streams, 8 if options.quick else FLOOD))


async def _claims(model: str, streams: Sequence[Sequence[Stage]], flood: int) -> list[Claim]:
    from ouroboros.backend.local import LocalBackend

    backend = LocalBackend.open(model)
    found: list[Claim] = []
    for arm, (gate, limit) in ARMS.items():
        floods: list[Run] = []
        for share in SHARES:
            runs = []
            for seed, stages in enumerate(streams):
                kept = round(KEPT * sum(len(s.train) for s in stages))
                watched = await Watched.fresh(backend, gate, limit, kept=kept, seed=seed)
                runs.append(await poisoned(watched, stages, share, seed))
                print(f"  seed {seed}, {share:.0%} flipped, {arm}", file=sys.stderr, flush=True)
                if not share:
                    floods.append(await flooded(watched, stages, flood))
            if gate is GATE and not share:
                found += gate_claims([update for run in runs for update in run.updates])
            bound = 0 if gate is GATE and share == 0.05 else None
            found += harm(f"{share:.0%} flipped, {arm}", runs, bound)
        found += harm(f"one user floods, {arm}", floods)
    await backend.close()
    return found


def gate_claims(updates: Sequence[Update]) -> list[Claim]:
    """What the gate got wrong on clean streams, and what it cost."""
    judged = [u for u in updates if u.known is not None]
    promoted = [u for u in judged if u.promoted]
    missed, unjust = [u.missed for u in promoted], [u.refused_falsely for u in judged]
    cost = [100 * u.judging / max(u.training, 1e-9) for u in judged]
    return [
        Claim("promotions that fell on full test sets", _percent(missed), at_most=2, unit="%"),
        Claim("updates refused though they had not fallen", _percent(unjust), unit="%"),
        Claim("updates refused", Spread.of([len(judged) - len(promoted)]), unit=f" of {len(judged)}"),
        Claim("promoted, part of the way only", Spread.of([sum(u.share < 1 for u in promoted)])),
        Claim("the gate's time over the training's", Spread.of(cost), at_most=50, unit="%"),
    ]


def harm(what: str, runs: Sequence[Run], most: int | None = None) -> list[Claim]:
    """How many promotions hurt, `most` of them at most, and what the stream came to."""
    updates = [update for run in runs for update in run.updates]
    promoted = sum(update.promoted for update in updates)
    hurt = Spread.of([sum(update.missed for update in updates)])
    return [
        Claim(f"{what}: promotions that hurt", hurt, at_most=most, unit=f" of {promoted}"),
        Claim(f"{what}: accuracy in the end", Spread.of(100 * r.accuracy for r in runs), unit="%"),
    ]


def _percent(outcomes: Sequence[bool]) -> Spread:
    return Spread.of([100 * sum(outcomes) / max(len(outcomes), 1)])
