"""Whose step is next: answering goes before learning, and learning is never starved.

Someone reads an answer while it is written, so a pause between two of its tokens is seen; a training is
waited for as a whole. While both want the machine, learning runs in bursts with at least
`MIN_ANSWER_STEPS` steps of answering between two bursts: at most one token in twenty-five is late, so
the 95th percentile of the time between tokens stays what it is without learning. A burst lasts until
learning has had `LEARNING_SHARE` of the time that answering had. Alone, either has the whole machine.
"""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

W = TypeVar("W")

MIN_ANSWER_STEPS = 24
LEARNING_SHARE = 0.25


class FairScheduler(Generic[W]):
    """Work waiting for its next step, in two queues; within one, each piece takes its turn."""

    def __init__(self) -> None:
        self._queues: tuple[deque[W], deque[W]] = deque(), deque()
        self._learning_seconds = 0.0
        self._answer_steps = 0

    def __bool__(self) -> bool:
        return any(self._queues)

    def __iter__(self) -> Iterator[W]:
        return (work for queue in self._queues for work in queue)

    def add(self, work: W, learning: bool) -> None:
        """`learning` is work that someone waits for as a whole: training, scoring, merging."""
        self._queues[learning].append(work)

    def pop_next(self) -> tuple[W, bool]:
        """The work whose step is next, taken out, and whether it is learning."""
        answering, learning = map(bool, self._queues)
        if not (answering and learning):
            self._learning_seconds, self._answer_steps = 0.0, 0
            chosen = learning
        else:
            chosen = self._answer_steps >= MIN_ANSWER_STEPS and self._learning_seconds > 0
        return self._queues[chosen].popleft(), chosen

    def record_step(self, seconds: float, learning: bool) -> None:
        """How long that step lasted."""
        if not learning:
            self._learning_seconds += LEARNING_SHARE * seconds
            self._answer_steps += 1
            return
        self._learning_seconds -= seconds
        if self._learning_seconds <= 0:
            self._answer_steps = 0
