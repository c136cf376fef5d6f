"""Trainings, corrections, merges, rebuilds and answers on the bundled model keep their bits.

`frozen_digests.json` has digests by machine signature, as `python -m tests.system.digests` prints them.
On a machine that is not in it, only what holds everywhere is checked: a second run gives the same bits.
To compare two revisions there, add the digests of the earlier one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FROZEN = json.loads((Path(__file__).parent / "frozen_digests.json").read_text())


def run_digests(caches: Path) -> tuple[str, dict[str, str]]:
    """The machine's signature and the digests, from a process of its own that has empty caches."""
    settings = {k: v for k, v in os.environ.items() if not k.startswith("OUROBOROS_")}
    paths = {"PYTHONPATH": f"{ROOT / 'src'}", "XDG_CACHE_HOME": f"{caches}"}
    finished = subprocess.run(
        [sys.executable, "-m", "tests.system.digests"],
        cwd=ROOT,
        env={**settings, **paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    ((signature, digests),) = json.loads(finished.stdout).items()
    return signature, digests


def test_the_same_work_gives_the_same_bits(tmp_path: Path) -> None:
    signature, digests = run_digests(tmp_path / "first")
    if signature in FROZEN:
        assert digests == FROZEN[signature]
        return
    assert run_digests(tmp_path / "second") == (signature, digests)
    pytest.skip(f"equal in two runs, but this machine has no frozen digests: {signature}")
