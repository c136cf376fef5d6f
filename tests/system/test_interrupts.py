"""Ctrl-C and SIGTERM during a training: a checkpoint, one line, and the same bits afterwards."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROWS = [{"prompt": f"question {i}", "completion": f"answer {i % 3}"} for i in range(12)]
TRAINING = ("--epochs", "40", "--batch-size", "2", "--threads", "1")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


INTERRUPTED_IMPORT = """
import runpy, signal, sys

module = sys.argv.pop(1)

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
runpy.run_module("ouroboros", run_name="__main__")
"""


@pytest.mark.parametrize("module", ["ouroboros.cli.main", "ouroboros.build", "ouroboros.cli.lineage"])
def test_ctrl_c_during_imports_is_one_line(python, module):
    ran = python("-c", INTERRUPTED_IMPORT, module, "create", "tickets")
    assert ran.returncode == 130
    assert ran.stderr.splitlines()[-1] == "Stopped."
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_keeps_a_checkpoint_and_comes_to_the_same_bits(
    ouroboros, environment, rows, tmp_path, number
):
    ouroboros("create", "stopped")
    command = [sys.executable, "-m", "ouroboros", "train", "stopped", str(rows), *TRAINING]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stderr is not None
        for line in program.stderr:  # an event, and not a time: the training has taken steps
            if line.startswith("step "):
                break
        program.send_signal(number)
        out, err = program.communicate()
    assert program.returncode == 130, err
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("Stopped at step ")
    assert "jobs --resume 'stopped#1'" in last
    assert "Traceback" not in err
    (job,) = json.loads(ouroboros("jobs", "--json").stdout)
    assert job["state"] == "paused"
    assert 0 < job["step"] < job["steps"] == 240
    if number == signal.SIGINT:
        return  # both leave the same; the other one shows that it can be gone on with
    resumed = json.loads(ouroboros("jobs", "--resume", "stopped#1", "--json").stdout)
    ouroboros("create", "whole")
    whole = json.loads(ouroboros("train", "whole", rows, *TRAINING, "--json").stdout)
    assert resumed["digest"] == whole["digest"]
    assert json.loads(ouroboros("jobs", "--json").stdout) == []
