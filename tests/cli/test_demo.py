"""The demo's output, on a tiny model; tests/system tests that it learns on the starter."""

from ouroboros.cli.demo import TASK
from tests.cli.shapes import FROZEN, fits


def test_the_demo_trains_once_and_says_what_to_type_next(cli, tiny):
    first = cli("demo")
    assert first.code == 0
    assert "learned from 100 examples" in first.err
    assert "step 120/120" in first.err
    lines = first.out.splitlines()
    assert f"generate {TASK} " in lines[-1]
    assert lines[-1].endswith(f"--model {tiny}")
    assert any(line.startswith("base model  ") and " of 60 " in line for line in lines)
    assert any(line.startswith("tickets@2 ") and " of 60 " in line for line in lines)

    second = cli("demo", "--json")
    assert "trained by an earlier demo" in second.err
    assert "step " not in second.err
    assert second.json["version"]["number"] == 2
    assert fits(second.json, FROZEN["demo"])


def test_the_demo_leaves_somebody_elses_adapter_alone(cli, rows):
    cli("create", TASK)
    cli("train", TASK, rows)
    ran = cli("demo")
    assert ran.code == 4
    assert "--store" in ran.error
    assert cli("show", TASK, "--json").json["head"] == 2
