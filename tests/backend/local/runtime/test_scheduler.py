"""Turns: who is next, as a policy on the times that steps took."""

from collections.abc import Iterator

import pytest

from ouroboros.backend.local.runtime.scheduler import LEARNING_SHARE, MIN_ANSWER_STEPS, FairScheduler


def play(turns: FairScheduler[str], seconds: dict[str, float]) -> Iterator[str]:
    """Endless work: each step takes its time and comes again."""
    while True:
        work, learning = turns.pop_next()
        yield work
        turns.record_step(seconds[work], learning)
        turns.add(work, learning)


def take_turns(steps: int, **seconds: float) -> list[str]:
    turns: FairScheduler[str] = FairScheduler()
    for work in seconds:
        turns.add(work, learning=work.startswith("learn"))
    playing = play(turns, seconds)
    return [next(playing) for _ in range(steps)]


def test_alone_either_has_the_whole_machine():
    assert take_turns(5, learn=1.0) == ["learn"] * 5
    assert take_turns(5, answer=1.0) == ["answer"] * 5


def test_pieces_of_one_kind_take_turns():
    assert take_turns(6, answer1=1.0, answer2=9.0) == ["answer1", "answer2"] * 3
    assert take_turns(4, learn1=1.0, learn2=9.0) == ["learn1", "learn2"] * 2


@pytest.mark.parametrize("learn", [0.01, 0.3, 1.0, 40.0])
def test_at_most_one_token_in_twenty_five_is_late(learn):
    order = "".join(work[0] for work in take_turns(3000, answer=1.0, learn=learn))
    bursts = [b for b in order.split("a") if b]
    gaps = [g for g in order.split("l") if g][:-1]
    assert bursts
    assert min(map(len, gaps)) >= MIN_ANSWER_STEPS


@pytest.mark.parametrize("learn", [0.01, 0.3, 1.0, 40.0])
def test_learning_gets_its_share_of_the_time(learn):
    order = take_turns(20_000, answer=1.0, learn=learn)
    assert order.count("learn") * learn / order.count("answer") == pytest.approx(LEARNING_SHARE, rel=0.1)
