"""A program killed at random and at named points has lost nothing of what it had acknowledged.

A hundred kills here; `python -m benchmarks registry --only kills` makes a thousand.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, sys
from pathlib import Path
from benchmarks.registry.kills import survive
print(json.dumps(vars(survive(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))))
"""


def survive_kills(folder: Path, kills: int, seed: int) -> dict:
    """In a process of its own: it forks, and must hold no threads."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), str(kills), str(seed)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def check(tally: dict, kills: int) -> None:
    assert tally["kills"] == kills
    assert tally["acknowledged"] > kills
    assert len(tally["points"]) > 5
    assert (tally["lost"], tally["dangling"], tally["unopened"]) == ([], [], [])


def test_a_few_kills_lose_nothing(tmp_path: Path) -> None:
    check(survive_kills(tmp_path, 30, seed=3), 30)


@pytest.mark.slow
def test_a_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    check(survive_kills(tmp_path, 100, seed=4), 100)
