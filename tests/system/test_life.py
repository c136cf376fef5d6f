"""An adapter's whole life, each step a process of its own."""

import json
import signal
import subprocess
import sys

import pytest


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "where is my parcel", "completion": "delivery"}\n' * 4)
    return path


def test_create_train_generate_list_show_delete(ouroboros, rows):
    assert ouroboros("create", "tickets").returncode == 0
    trained = ouroboros("train", "tickets", rows, "--epochs", "20", "--json")
    assert json.loads(trained.stdout)["version"] == "tickets@2"
    answer = ouroboros("generate", "tickets", "where is my parcel")
    assert answer.stdout == "delivery\n"
    assert [a["name"] for a in json.loads(ouroboros("list", "--json").stdout)] == ["tickets"]
    assert json.loads(ouroboros("show", "tickets", "--json").stdout)["head"] == 2
    assert ouroboros("delete", "tickets").returncode == 0
    missing = ouroboros("show", "tickets")
    assert missing.returncode == 3
    assert missing.stderr.startswith("Error: There is no adapter 'tickets'.")


def test_an_interrupted_training_leaves_the_adapter_as_it_was(ouroboros, rows, tmp_path, environment):
    ouroboros("create", "tickets")
    command = [sys.executable, "-m", "ouroboros", "train", "tickets", str(rows), "--epochs", "9999"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background has them ignore this signal, and so their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as training:
        assert training.stderr is not None
        for line in training.stderr:
            if line.startswith("step "):
                training.send_signal(signal.SIGINT)
                break
        rest = training.stderr.read()
    assert training.returncode == 130
    last = rest.splitlines()[-1]
    assert last.startswith("Stopped at step ")
    assert last.endswith("jobs --resume 'tickets#1'")
    assert "Traceback" not in rest
    assert json.loads(ouroboros("show", "tickets", "--json").stdout)["head"] == 1


def test_a_reader_that_leaves_is_no_error(ouroboros, tmp_path, environment):
    ouroboros("create", "tickets")
    completed = subprocess.run(
        f"{sys.executable} -m ouroboros show tickets --json | head -c 1",
        shell=True,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.stdout == "{"
    assert completed.stderr == ""
