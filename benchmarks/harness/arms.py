"""Arms: the things measured side by side, each in a process of its own where that is the claim."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")


class Times(NamedTuple):
    """What something took: seconds on the wall's clock, and of processor time on all cores.

    With one thread on an idle machine the two are equal; on a busy one only the second means something.
    """

    wall: float
    processor: float

    @classmethod
    def now(cls) -> "Times":
        return cls(time.perf_counter(), sum(os.times()[:4]))

    def since(self) -> "Times":
        """What has passed since these times."""
        now = Times.now()
        return Times(now.wall - self.wall, now.processor - self.processor)


def interleave(arms: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Results by arm. Arms take turns, A B A B, so that a slow minute of the machine falls on all."""
    results: dict[str, list[T]] = {name: [] for name in arms}
    for turn in range(repeats):
        for name, arm in arms.items():
            print(f"  round {turn + 1} of {repeats}: {name}", file=sys.stderr, flush=True)
            results[name].append(arm())
    return results


def fresh(function: Callable[..., dict[str, Any]], **arguments: Any) -> Callable[[], dict[str, Any]]:
    """An arm that calls `function(**arguments)` in a fresh Python process.

    The function lives at the top of a module; arguments and result are JSON. Its output is shown only
    when it fails.
    """
    return lambda: _call(f"{function.__module__}:{function.__qualname__}", arguments)


def times_of(command: Sequence[str]) -> Times:
    """What a command took, which must succeed; its output goes nowhere.

    Python may keep its byte-code, as it does on anyone's machine after the first call.
    """
    environment = {k: v for k, v in _environment().items() if k != "PYTHONDONTWRITEBYTECODE"}
    started = Times.now()
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    return started.since()


def _call(target: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "benchmarks.harness.child",
                target,
                json.dumps(arguments),
                str(answer),
            ],
            check=False,
            cwd=ROOT,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{target} failed:\n{done.stdout}")
        return json.loads(answer.read_text())


def _environment() -> dict[str, str]:
    """This process's, offline, with the package found in this checkout."""
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
