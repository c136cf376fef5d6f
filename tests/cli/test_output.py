"""What is shown while work goes on, and how a next command is spelled."""

import sys
from dataclasses import replace

import pytest

from ouroboros.cli.output import Output, program_name
from ouroboros.cli.progress import format_clock, training_progress
from ouroboros.domain.errors import NotFound
from ouroboros.domain.training import TrainingProgress


def at(step: int, steps: int) -> TrainingProgress:
    return TrainingProgress(step, steps, 2.5, 1e-3, 1.0, 100 * step, float(step))


def test_a_log_gets_the_first_step_the_last_and_ten_between(capsys):
    with training_progress(Output()) as on_progress:
        for step in range(1, 101):
            on_progress(at(step, 100))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["1/100", *(f"{n}0/100" for n in range(1, 11))]
    assert lines[1] == "step 10/100  loss 2.500  100 tokens/s  1:30 left"


@pytest.mark.parametrize("live", [False, True])
def test_a_note_is_printed_once(live, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    out = Output()
    out.live = live
    with training_progress(out) as on_progress:
        for step in (1, 2, 3):
            on_progress(replace(at(step, 3), note="Memory is short."))
    assert capsys.readouterr().err.count("Note: Memory is short.") == 1


def test_a_person_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    out = Output()
    out.live = True
    with training_progress(out) as on_progress:
        on_progress(at(50, 100))
    shown = capsys.readouterr().err
    assert "━" in shown
    assert "50/100" in shown
    assert "100 tokens/s  0:50 left" in shown


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0:00"), (75, "1:15"), (3723, "1:02:03")])
def test_time_left_is_a_clock(seconds, shown):
    assert format_clock(seconds) == shown


def test_waiting_is_shown_in_a_log_and_on_a_terminal(capsys):
    for live in (False, True):
        out = Output()
        out.live = live
        with out.waiting("Loading"):
            pass
    assert capsys.readouterr().err.startswith("Loading ...\n")


def test_columns_line_up():
    table = Output().table(("a", "b"), [("long", "x"), ("s", "")])
    assert table == "a     b\nlong  x\ns"


def test_the_next_command_can_be_copied(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["/somewhere/ouroboros/__main__.py"])
    assert program_name() == "python -m ouroboros"
    installed = tmp_path / "bin" / "ouroboros"
    installed.parent.mkdir()
    installed.write_text("#!/bin/sh\n")
    installed.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(installed)])
    assert program_name() == "bin/ouroboros"
    monkeypatch.setenv("PATH", str(installed.parent))
    Output().next_step("train", "my tickets", "FILE")
    assert capsys.readouterr().out == "\nNext: ouroboros train 'my tickets' FILE\n"


def test_an_error_stays_one_short_line(capsys):
    Output().error(NotFound(f"There is no adapter\n'{'x' * 10_000}'.", hint="See ouroboros list."))
    line = capsys.readouterr().err
    assert line.startswith("Error: There is no adapter 'xxx")
    assert line.endswith("... See ouroboros list.\n")
    assert len(line) < 200
