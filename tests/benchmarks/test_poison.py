"""Bad teachers, and what the gate is watched by."""

from dataclasses import replace

from benchmarks.continual.poison import flip_answers, flood_with_corrections, train_on_poisoned
from benchmarks.continual.streams import Stage
from benchmarks.continual.watch import OPEN, Update, WatchedAdapter, earlier
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.verdict import Change
from ouroboros.testing.backend import FakeBackend


def _stage(name: str, rows: int = 20) -> Stage:
    """Every question is taught and asked."""
    examples = tuple(TrainingExample(f"{name} {i}", f"{name}{i % 2}") for i in range(rows))
    return Stage(name, examples, examples)


STAGES = [_stage("a"), _stage("b"), _stage("c")]


def _update(*, promoted: bool, known: Change | None) -> Update:
    return Update(promoted, (), 1.0, known, training=1.0, judging=1.0)


def test_a_share_of_the_answers_is_flipped_and_the_tests_stay_right() -> None:
    flipped = flip_answers(STAGES, 0.1, seed=0)
    for before, after in zip(STAGES, flipped, strict=True):
        pairs = list(zip(before.train, after.train, strict=True))
        assert sum(b.output != a.output for b, a in pairs) == 2
        assert all(b.input == a.input for b, a in pairs)
        assert after.test == before.test
    assert flip_answers(STAGES, 0.0, seed=0) == STAGES


def test_what_is_flipped_becomes_an_answer_the_stream_has_had() -> None:
    so_far: set[str] = set()
    for before, after in zip(STAGES, flip_answers(STAGES, 0.5, seed=1), strict=True):
        so_far |= {e.output for e in before.train}
        assert {e.output for e in after.train} <= so_far


def test_each_stage_comes_with_the_tests_before_it() -> None:
    assert [len(known) for _, known in earlier(STAGES)] == [0, 20, 40]


def test_a_miss_is_a_promotion_that_fell_by_more_than_tolerance_and_chance() -> None:
    fell = Change(rows=100, before=0.9, after=0.8, low=-0.15, high=-0.05)
    chance = Change(rows=100, before=0.9, after=0.87, low=-0.07, high=0.01)
    assert _update(promoted=True, known=fell).missed
    assert not _update(promoted=True, known=chance).missed
    assert not _update(promoted=False, known=fell).missed
    assert not _update(promoted=False, known=fell).refused_falsely
    assert _update(promoted=False, known=chance).refused_falsely
    assert not _update(promoted=True, known=None).missed


async def test_a_clean_stream_is_taught_stage_by_stage() -> None:
    watched = await WatchedAdapter.fresh(FakeBackend())
    run = await train_on_poisoned(watched, STAGES, share=0.0, seed=0)
    assert [u.promoted for u in run.updates] == [True] * 3
    assert run.updates[0].known is None
    assert run.updates[2].known is not None and run.updates[2].known.rows == 40
    assert run.accuracy == 1.0


async def test_what_one_gate_refuses_another_lets_through_and_the_watch_calls_it_a_miss() -> None:
    known, wrong = STAGES[0], [TrainingExample(e.input, "spam") for e in STAGES[0].train]
    for gate, promoted in ((OPEN, True), (replace(OPEN, strength=1e-3), False)):
        watched = await WatchedAdapter.fresh(FakeBackend(), gate)
        await watched.teach(known.train, [])
        before = await watched.accuracy(known.test)
        update = await watched.teach(wrong, known.test)
        assert update.promoted is promoted
        assert update.missed is promoted
        assert await watched.accuracy(known.test) == (0.0 if promoted else before)


async def test_a_flood_is_judged_on_every_stage() -> None:
    watched = await WatchedAdapter.fresh(FakeBackend(), OPEN)
    before = (await train_on_poisoned(watched, STAGES, share=0.0, seed=0)).accuracy
    flood = await flood_with_corrections(watched, STAGES, count=30)
    assert flood.updates and flood.accuracy < before
