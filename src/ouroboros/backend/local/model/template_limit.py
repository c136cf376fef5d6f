"""A bound on how long a chat template may run: Jinja's sandbox bounds all but its time."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ouroboros.domain.errors import ModelError

SECONDS = 10.0
"""Real templates take less than a millisecond."""

_TEMPLATE = "<template>"
"""The file name of code that Jinja compiled from a text."""


@contextmanager
def time_limit(seconds: float = SECONDS) -> Iterator[None]:
    """Raise `ModelError` at the next line of a template that has run for so long.

    Only the code of templates is traced, line by line; an existing tracer (a debugger's) is put back.
    """
    deadline = time.monotonic() + seconds

    def watch_line(frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > deadline:
            raise ModelError(
                f"The model's chat template did not end within {seconds:g} seconds.",
                hint="Fetch the model again, or repair its chat_template.jinja.",
            )
        return watch_line

    def watch_call(frame: FrameType, event: str, argument: Any) -> Any:
        return watch_line if frame.f_code.co_filename == _TEMPLATE else None

    before = sys.gettrace()
    sys.settrace(watch_call)
    try:
        yield
    finally:
        sys.settrace(before)
