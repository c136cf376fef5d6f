"""How PyTorch's threads wait for each other.

A pass is hundreds of short parallel loops. Threads that sleep between them take longer to wake than the
loops take; threads that spin until they are needed, as they do by default, hold a processor that another
program wants, and all of them wait for the one that has lost it. So they spin for some microseconds
and then sleep. Measured in docs/decisions/0007-training-passes.md, "Threads".
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

SPIN_COUNT = "1000"
"""Of spinning, before a thread sleeps."""

_SETTINGS = frozenset(["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])

_limited = False
"""Whether a limit on spinning was set when torch was loaded, by `load_torch` or by the user."""


def waits_briefly() -> bool:
    """Whether OpenMP's threads stop spinning soon.

    Not so where another part of the program imported torch first. Beside one busy program on as many
    processors as threads, passes then take seven times as long or more.
    """
    return _limited


def load_torch() -> None:
    """Import torch so that its threads wait like that, unless the environment says how they are to.

    OpenMP reads its settings when it is loaded, so this has no effect where torch is imported already;
    and they are taken back, so that other programs that are started do not have them.
    """
    global _limited
    if _SETTINGS & os.environ.keys():
        _limited = True
        return
    if "torch" in sys.modules:
        return
    _limited = True
    # With GNU's, active threads spin where there are more of them than processors too, so many turns.
    settings = {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": SPIN_COUNT}
    os.environ.update(settings if _uses_gnu_openmp() else {"OMP_WAIT_POLICY": "PASSIVE"})
    import torch  # noqa: F401

    for name in settings:
        os.environ.pop(name, None)


def _uses_gnu_openmp() -> bool:
    """Whether torch brings GNU's OpenMP."""
    torch = find_spec("torch")
    folders = torch.submodule_search_locations if torch else None
    return any(any(Path(folder, "lib").glob("libgomp*")) for folder in folders or ())
