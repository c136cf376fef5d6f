"""The benchmark harness: fair turns, honest verdicts, and arms in processes of their own."""

import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks.harness import Claim, Spread, command, fresh, interleave, ratios
from benchmarks.harness.report import summary, table


def _where(word: str) -> dict[str, object]:
    return {"word": word, "pid": os.getpid()}


def test_arms_take_turns() -> None:
    turns: list[str] = []
    arms = {name: lambda name=name: turns.append(name) or len(turns) for name in "AB"}
    assert interleave(arms, 2) == {"A": [1, 3], "B": [2, 4]}
    assert turns == ["A", "B", "A", "B"]


def test_a_fresh_arm_runs_in_a_process_of_its_own() -> None:
    result = fresh(_where, word="hello")()
    assert result["word"] == "hello" and result["pid"] != os.getpid()


def test_a_fresh_arm_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="unexpected keyword argument 'wrong'"):
        fresh(_where, wrong="hello")()


def test_a_spread_is_a_median_with_its_range() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert ratios([4.0, 9.0], [2.0, 3.0]) == [2.0, 3.0]


@pytest.mark.parametrize(
    ("at_least", "at_most", "holds"),
    [(2.0, None, True), (2.1, None, False), (None, 1.9, False), (None, None, True)],
)
def test_the_median_is_what_must_meet_the_target(
    at_least: float | None, at_most: float | None, holds: bool
) -> None:
    assert Claim("speed", Spread.of([1.0, 2.0, 30.0]), at_most, at_least).holds is holds


def test_the_report_names_what_fails_and_counts_only_what_has_a_target() -> None:
    claims = [
        Claim("fast", Spread.of([1.0, 3.0, 2.0]), at_least=2.5),
        Claim("small", Spread.of([7.0]), at_most=10, unit=" MiB"),
        Claim("a peer", Spread.of([7.0])),
    ]
    assert summary("it", claims) == "it: 1 of 2 claims hold; not: fast"
    lines = table(claims).splitlines()
    assert lines[2].split() == ["fast", ">=", "2.5", "2", "1", "..", "3", "NO"]
    assert lines[3].split() == ["small", "<=", "10", "MiB", "7", "MiB", "yes"]


def _benchmark(monkeypatch: pytest.MonkeyPatch, folder: Path, bound: float) -> None:
    (folder / "speed.py").write_text(
        '"""How fast it is.\n\nMore words."""\n'
        "from benchmarks.harness import Claim, Spread\n"
        "def add_arguments(parser): parser.add_argument('--data')\n"
        "def run(options):\n"
        f"    return [Claim(options.data, Spread.of([2.0]), at_least={bound})]\n"
    )
    (folder / "harness").mkdir()
    (folder / "harness" / "__init__.py").touch()
    monkeypatch.setattr(command, "HOME", folder)
    monkeypatch.setattr("benchmarks.__path__", [str(folder)])
    monkeypatch.delitem(sys.modules, "benchmarks.speed", raising=False)


def test_a_benchmark_is_found_by_its_file_and_its_own_arguments_reach_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _benchmark(monkeypatch, tmp_path, bound=1.0)
    assert command.main([]) == 0
    assert capsys.readouterr().out == "speed  How fast it is.\n"
    file = tmp_path / "out" / "speed.json"
    assert command.main(["speed", "--data", "texts", "--quick", "--json", str(file)]) == 0
    assert "too noisy to use" in capsys.readouterr().out.splitlines()[-1]
    record = json.loads(file.read_text())
    assert record["holds"] and record["quick"] and record["claims"][0]["text"] == "texts"


def test_a_claim_that_fails_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _benchmark(monkeypatch, tmp_path, bound=3.0)
    assert command.main(["speed", "--data", "texts"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "speed: 0 of 1 claims hold; not: texts"
    assert command.main(["speed", "--data", "texts", "--quick"]) == 0


def test_an_unknown_name_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["startupp"]) == 2
    assert "Did you mean startup?" in capsys.readouterr().err
