"""The demo's output, on a tiny model; tests/system tests that it learns on the starter."""

from ouroboros.cli.demo import TASK
from tests.cli.shapes import FROZEN, fits


def test_the_demo_trains_once_and_corrects_and_undoes_in_each_run(cli, tiny):
    # 1. The first run, for people.
    first = cli("demo")
    assert first.code == 0
    assert "step 120/120" in first.err
    lines = first.out.splitlines()
    assert any(line.startswith("100 examples are there to learn from") for line in lines)
    assert any(line.startswith("base model  ") and " of 60 " in line for line in lines)
    assert any(line.startswith("tickets@2 ") and " of 60 " in line for line in lines)
    assert "A user corrects one of the wrong answers of tickets@2:" in lines
    assert "Undone: tickets@2 is served again and gives the old answer again." in lines
    for verb, line in zip(("generate", "feedback", "explain"), lines[-3:], strict=True):
        assert f" {verb} {TASK} " in line
        assert line.endswith(f"--model {tiny}")
    assert cli("show", TASK, "--json").json["head"] == 2

    # 2. The second run, for programs: nothing is trained, and the correction makes a new version.
    second = cli("demo", "--json")
    assert "step " not in second.err
    assert fits(second.json, FROZEN["demo"])
    assert second.json["version"]["number"] == 2
    correction = second.json["correction"]
    assert correction["version"] == "tickets@4"
    assert correction["restored"]
    # 3. The corrected answer is counted apart from the others.
    assert correction["others"] == 59
    assert correction["others_right"][0] == second.json["after"]["correct"]
    assert correction["question"] not in [other["prompt"] for other in correction["changed"]]
    assert correction["answer"] != correction["wanted"]


def test_the_demo_leaves_somebody_elses_adapter_alone(cli, rows):
    cli("create", TASK)
    cli("train", TASK, rows)
    ran = cli("demo")
    assert ran.code == 4
    assert "--store" in ran.error
    assert cli("show", TASK, "--json").json["head"] == 2
