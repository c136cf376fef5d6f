"""What a running job does between two steps."""

import time
from dataclasses import replace

from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.errors import NotFound
from ouroboros.domain.training import JobState, OnProgress, TrainingProgress
from ouroboros.registry.jobs import JobStore

LOOK = 1.0
"""Seconds between looks whether somebody, in whatever program, gave the job up."""


class JobProgress:
    """Keeps a job's checkpoints and sees when it is given up; hands all progress on.

    Called on the backend's thread, so that what it writes is written before the next step is taken.
    """

    def __init__(
        self, jobs: JobStore, id: str, on_progress: OnProgress | None, cancel: CancellationToken
    ) -> None:
        self._jobs = jobs
        self._id = id
        self._on_progress = on_progress
        self._cancel = cancel
        self._looked = time.monotonic()

    def __call__(self, now: TrainingProgress) -> None:
        if now.checkpoint is not None:
            self._jobs.save_checkpoint(self._id, now.checkpoint, now.step, now.steps)
        if self._cancel.pausing and now.step < now.steps:
            self._jobs.update(self._id, lambda job: replace(job, state=JobState.PAUSED))
            self._cancel.cancel()
        if time.monotonic() - self._looked > LOOK:
            self._looked = time.monotonic()
            if self._given_up():
                self._cancel.cancel()
        if self._on_progress is not None:
            self._on_progress(now)

    def _given_up(self) -> bool:
        try:
            return self._jobs.get(self._id).state in (JobState.CANCELLING, JobState.PAUSED)
        except NotFound:
            return True
