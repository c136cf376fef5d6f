"""Cancelling long operations."""

import threading

from ouroboros.domain.errors import Cancelled


class CancellationToken:
    """Pass one to a long operation and call `cancel()` from anywhere: it stops at its next step.

    Stopped work returns `Err(Cancelled)` and leaves everything as it was.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._pause = threading.Event()

    def pause(self) -> None:
        """Asks a training to stop after its next step and to keep a checkpoint: `resume_job` goes on."""
        self._pause.set()

    @property
    def pausing(self) -> bool:
        """Whether the work should stop at the next step and keep a checkpoint."""
        return self._pause.is_set()

    def cancel(self) -> None:
        """Stops the work at the next step, without a checkpoint. Any thread may call it."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._event.is_set()

    def raise_if_cancelled(self) -> None:
        """Raises `Cancelled` if `cancel` was called."""
        if self.cancelled:
            raise Cancelled("Stopped as asked; nothing was changed.")
