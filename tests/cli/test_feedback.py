"""`ouroboros feedback` and `ouroboros chat`, in this process, on a tiny model."""

import asyncio
import io
import json
import os
import signal
from pathlib import Path

import pytest

from ouroboros.cli.main import main
from ouroboros.engine import AdapterLearningEngine


@pytest.fixture
def run(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    common = ["--store", str(tmp_path / "store"), "--model", str(tiny), "--dtype", "float32"]

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, *common])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    assert call("create", "tickets")[0] == 0
    return call


def test_a_correction_makes_a_version_and_says_why(run) -> None:
    code, out, _ = run("feedback", "tickets", "where is it?", "--answer", "no idea", "--fix", "shipping")
    assert code == 0
    assert out == "tickets@2: correction -> SFT + DPO against the replaced answer\n"


def test_a_file_of_judgements_is_learned_together(run, tmp_path: Path) -> None:
    file = tmp_path / "judgements.jsonl"
    rows = [
        {"prompt": "a", "answer": "x", "correction": "y", "user": "ann", "key": "1"},
        {"prompt": "b", "answer": "x", "failure": -1, "key": "2"},
        {"prompt": "c", "chosen": "y", "rejected": "x", "key": "3"},
        {"prompt": "d", "answer": "x", "critique": "hm", "key": "4"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = run("feedback", "tickets", "--file", str(file), "--json")
    assert code == 0
    tickets = json.loads(out)
    assert [ticket["event"] for ticket in tickets] == [1, 2, 3, 4]
    assert [ticket["lesson"].split()[0] for ticket in tickets] == [
        "correction",
        "failure",
        "preference",
        "critique",
    ]
    assert run("feedback", "tickets", "--file", str(file), "--json")[1] == out


def test_pending_without_events_says_so(run) -> None:
    assert run("feedback", "tickets", "--pending")[1] == "There was nothing to learn.\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["tickets", "p"], 2),
        (["tickets", "p", "--good", "--bad"], 2),
        (["tickets", "--fix", "x"], 2),
        (["tickets", "p", "--answer", "a", "--fix", " "], 2),
        (["tickets", "p", "--answer", "a", "--good", "nan"], 2),
        (["nobody", "p", "--answer", "a", "--good"], 3),
    ],
)
def test_mistakes_are_one_line(run, arguments: list[str], code: int) -> None:
    exit_code, out, error = run("feedback", *arguments)
    assert (exit_code, out) == (code, "")
    assert "Error: " in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"prompt": "a", "answer": "b"}', "not exactly one signal"),
        ('{"prompt": "a", "answer": "b", "sucess": 1}', "Unknown key 'sucess'"),
        ('{"prompt": "a", "answer": "b", "success": "yes"}', "score is 'yes'"),
        ('{"prompt": " ", "answer": "b", "success": 1}', "prompt is empty"),
        ("{", "not JSON"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_learned(
    run, tmp_path: Path, line: str, problem: str
) -> None:
    file = tmp_path / "judgements.jsonl"
    file.write_text('{"prompt": "a", "answer": "x", "correction": "y"}\n' + line + "\n")
    code, _, error = run("feedback", "tickets", "--file", str(file))
    assert code == 2
    assert "line 2" in error
    assert problem in error
    assert run("feedback", "tickets", "--pending")[1] == "There was nothing to learn.\n"


def test_a_conversation_teaches_and_takes_back(run, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "/good\nwhere is it?\n/fix shipping\n/undo\n/fix\n/what\n/quit\nnever read\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    code, out, error = run("chat", "tickets", "--max-tokens", "12")
    assert code == 0
    assert "after:  shipping   (tickets@2)" in out
    before = out.splitlines()[0]
    assert f"tickets now serves @1.\n  now:    {before}\n" in out
    assert "Ask something first." in error
    assert "The correction is empty." in error


def test_equal_outcomes_of_a_file_are_one_line(run, tmp_path: Path) -> None:
    file = tmp_path / "judgements.jsonl"
    rows = [{"prompt": f"question {i}", "answer": "x", "critique": "too short"} for i in range(24)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = run("feedback", "tickets", "--file", str(file))
    assert code == 0
    outcome, unchanged = out.splitlines()
    assert outcome.endswith("(24 judgements)")
    assert unchanged == "Nothing changed: tickets still serves @1."


def test_a_stop_while_learning_says_what_is_stored(run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stop(engine: AdapterLearningEngine, ticket: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    monkeypatch.setattr(AdapterLearningEngine, "feedback_outcome", stop)
    code, _, error = run("feedback", "tickets", "hi", "--answer", "a", "--fix", "b")
    assert code == 130
    assert "1 judgement of 1 stored." in error
    assert "feedback tickets --pending" in error


@pytest.mark.parametrize(
    "judgement",
    [["--answer", "", "--fix", "hi"], ["--answer", "", "--bad"], ["--chosen", "hi", "--rejected", ""]],
)
def test_an_empty_answer_is_judged_as_it_is(run, judgement) -> None:
    code, _, error = run("feedback", "tickets", "where is it?", *judgement)
    assert code == 0, error


def test_one_of_two_answers_alone_is_refused(run):
    code, _, error = run("feedback", "tickets", "where is it?", "--chosen", "hi")
    assert code == 2
    assert "Give --chosen and --rejected together." in error
