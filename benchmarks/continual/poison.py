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
from benchmarks.continual.watch import GATE, NAME, OPEN, Update, WatchedAdapter, earlier
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
class PoisonedRun:
    """What became of one stream: its updates, and how well the end knows every stage."""

    updates: list[Update]
    accuracy: float


def flip_answers(stages: Sequence[Stage], share: float, seed: int) -> list[Stage]:
    """The stages with a share of the answers taught exchanged for another that the stream has so far.

    The tests stay right. At least one row of each stage is flipped, if any share is.
    """
    chance, answers, flipped_stages = random.Random(seed), dict[str, None](), []
    for stage in stages:
        answers |= dict.fromkeys(e.output for e in stage.train)
        count = max(1, round(share * len(stage.train))) if share else 0
        wrong = set(chance.sample(range(len(stage.train)), count))
        rows = tuple(
            _flip(e, list(answers), chance) if i in wrong else e for i, e in enumerate(stage.train)
        )
        flipped_stages.append(replace(stage, train=rows))
    return flipped_stages


def _flip(example: TrainingExample, answers: Sequence[str], chance: random.Random) -> TrainingExample:
    return TrainingExample(
        example.input, chance.choice([a for a in answers if a != example.output] or answers)
    )


async def train_on_poisoned(
    watched: WatchedAdapter, stages: Sequence[Stage], share: float, seed: int
) -> PoisonedRun:
    """Teach a stream, some of it flipped, stage by stage."""
    updates = [
        await watched.teach(stage.train, known, seed)
        for stage, known in earlier(flip_answers(stages, share, seed))
    ]
    return PoisonedRun(updates, await watched.accuracy(tests(stages)))


async def flood_with_corrections(
    watched: WatchedAdapter, stages: Sequence[Stage], count: int
) -> PoisonedRun:
    """One user corrects answers to what was taught, always to the same wrong one."""
    trained_examples = [e for stage in stages for e in stage.train]
    wrong = trained_examples[-1].output
    others = [e for e in trained_examples if e.output != wrong]
    last = watched.registry.list_versions(NAME)[-1].number
    for example in random.Random(0).sample(others, min(count, len(others))):
        signal = FeedbackSignal.user_correction(wrong)
        ticket = await watched.engine.learn_from_feedback(
            example.input, example.output, signal, NAME, user="mallory", wait=False
        )
        ticket.unwrap()
    (await watched.engine.learn_pending(NAME)).unwrap()
    later_versions = [v for v in watched.registry.list_versions(NAME) if v.number > last]
    updates = [await watched.update(v, tests(stages)) for v in later_versions]
    return PoisonedRun(updates, await watched.accuracy(tests(stages)))


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
    claims: list[Claim] = []
    for arm, (gate, limit) in ARMS.items():
        floods: list[PoisonedRun] = []
        for share in SHARES:
            runs = []
            for seed, stages in enumerate(streams):
                n_kept = round(KEPT * sum(len(s.train) for s in stages))
                watched = await WatchedAdapter.fresh(backend, gate, limit, n_kept=n_kept, seed=seed)
                runs.append(await train_on_poisoned(watched, stages, share, seed))
                print(f"  seed {seed}, {share:.0%} flipped, {arm}", file=sys.stderr, flush=True)
                if not share:
                    floods.append(await flood_with_corrections(watched, stages, flood))
            if gate is GATE and not share:
                claims += gate_claims([update for run in runs for update in run.updates])
            bound = 0 if gate is GATE and share == 0.05 else None
            claims += harm(f"{share:.0%} flipped, {arm}", runs, bound)
        claims += harm(f"one user floods, {arm}", floods)
    await backend.close()
    return claims


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


def harm(what: str, runs: Sequence[PoisonedRun], most: int | None = None) -> list[Claim]:
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
