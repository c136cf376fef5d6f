"""Streams, devices, encodings and signals: one clear line, and an exit code that tells the truth."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ouroboros.cli.interrupts import INTERRUPTS
from ouroboros.cli.main import explain_exception, main
from ouroboros.cli.output import escape_controls, format_json
from ouroboros.domain.checks import check_int, check_number
from ouroboros.domain.errors import InvalidConfig
from ouroboros.engine import AdapterLearningEngine

PROGRAM = f"{sys.executable} -m ouroboros"


@pytest.fixture
def shell(home: Path, tiny: Path):
    """Runs a line of the shell in which `$O` is the program."""

    def run(line: str, **settings: str) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, "OUROBOROS_MODEL": str(tiny), "O": PROGRAM, **settings}
        return subprocess.run(
            ["sh", "-c", line], cwd=home, env=environment, capture_output=True, check=False
        )

    return run


def one_line(ran: subprocess.CompletedProcess[bytes]) -> str:
    """The one line that a command wrote to stderr."""
    (line,) = ran.stderr.decode().splitlines()
    assert "bug" not in line
    assert "Traceback" not in line
    return line


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
@pytest.mark.parametrize("verb", ["list", "list --json", "--version", "--help", "create --help"])
def test_a_result_that_cannot_be_written_is_an_error(shell, verb, redirection):
    ran = shell(f"$O {verb} {redirection}")
    assert ran.returncode == 13
    assert "cannot be written to standard output" in one_line(ran)


def test_what_was_made_but_not_printed_is_called_done(shell):
    ran = shell("$O create tickets >/dev/full")
    assert ran.returncode == 13
    assert "The work is done" in ran.stderr.decode()
    assert [a["name"] for a in json.loads(shell("$O list --json").stdout)] == ["tickets"]


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&-"])
def test_a_closed_stderr_or_stdin_does_no_harm(shell, redirection):
    ran = shell(f"$O create tickets {redirection}")
    assert ran.returncode == 0
    assert ran.stdout.decode().startswith("Created tickets")
    assert shell("$O fsck").returncode == 0


def test_a_closed_stdin_has_no_prompt(shell):
    ran = shell("$O create tickets && $O generate tickets - <&-")
    assert ran.returncode == 2
    assert ran.stderr.decode().splitlines()[-1].startswith("Error: Standard input is closed.")


def test_a_prompt_on_stdin_must_be_utf8(shell):
    ran = shell("printf '\\377' | $O generate tickets -")
    assert ran.returncode == 2
    assert one_line(ran).startswith("Error: Standard input is not UTF-8.")


def test_a_terminal_without_utf8_gets_escapes(shell):
    ran = shell("$O create größe", PYTHONIOENCODING="ascii")
    assert ran.returncode == 0
    assert b"Created gr\\xf6\\xdfe" in ran.stdout
    listed = shell("$O list --json", PYTHONIOENCODING="ascii")
    assert [a["name"] for a in json.loads(listed.stdout)] == ["größe"]


def test_a_user_that_is_not_utf8_is_refused_before_anything_is_stored(home, shell):
    ran = shell("$O forget --user \"$(printf 'a\\377')\"")
    assert ran.returncode == 2
    assert "is not UTF-8" in one_line(ran)


@pytest.mark.parametrize("number", ["9" * 19, "9" * 400, "9" * 5000])
def test_a_huge_event_number_is_refused_in_words(cli, number):
    cli("create", "tickets")
    ran = cli("forget", "tickets", number)
    assert ran.code == 2
    assert "bug" not in ran.error
    assert len(ran.error) < 400


@pytest.mark.parametrize("seed", [2**64, "9" * 400])
def test_a_huge_seed_is_refused_in_words(cli, rows, seed):
    cli("create", "tickets")
    for arguments in (["train", "tickets", rows], ["generate", "tickets", "hi"]):
        ran = cli(*arguments, "--seed", seed)
        assert ran.code == 2
        assert "bug" not in ran.error


def test_a_user_without_a_home_folder_is_told_so(cli):
    ran = cli("list", "--store", "~nobody-of-this-name/store")
    assert ran.code == 2
    assert "home folder" in ran.error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermissionError(13, "Permission denied", "store"), "store_error"),
        (OSError(28, "No space left on device"), "store_error"),
        (MemoryError(), "out_of_memory"),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), "invalid_input"),
        (OverflowError("int too large"), "invalid_input"),
    ],
)
def test_what_the_system_causes_is_not_called_a_bug(error, code):
    explained = explain_exception(error)
    assert explained.code == code
    assert "bug" not in str(explained)
    assert explained.hint


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_stop_a_verb_in_order(cli, monkeypatch, number):
    import asyncio

    cleaned = []

    async def wait_for_ever(*_: object) -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    monkeypatch.setattr("ouroboros.cli.listing.run", wait_for_ever)
    ran = cli("list")
    assert ran.code == 130
    assert ran.err == "Stopped.\n"
    assert cleaned == [True]
    assert signal.getsignal(number) != INTERRUPTS._handle


def test_a_stop_just_after_the_commit_says_what_is_served(cli, monkeypatch):
    close = AdapterLearningEngine.close

    async def stop_and_close(engine: AdapterLearningEngine) -> None:
        monkeypatch.setattr(AdapterLearningEngine, "close", close)
        os.kill(os.getpid(), signal.SIGINT)
        await close(engine)

    monkeypatch.setattr(AdapterLearningEngine, "close", stop_and_close)
    ran = cli("create", "tickets")
    assert ran.code == 130
    served, stopped = ran.err.splitlines()[-2:]
    assert served == "The change was already committed: tickets@1 is served."
    assert stopped == "Stopped."
    monkeypatch.setattr(AdapterLearningEngine, "close", stop_and_close)
    assert cli("feedback", "tickets", "--pending").err.splitlines()[-1] == "Stopped."


def test_a_stop_before_the_commit_says_nothing_else(cli, monkeypatch):
    cli("create", "tickets")
    base = AdapterLearningEngine.base

    async def stop(engine: AdapterLearningEngine) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await base(engine)

    monkeypatch.setattr(AdapterLearningEngine, "base", stop)
    ran = cli("feedback", "tickets", "hi", "--fix", "hello")
    assert ran.code == 130
    assert "committed" not in ran.err


@pytest.mark.parametrize("value", [10**400, 10**5000, -(10**5000)], ids=["400", "5000", "-5000"])
def test_a_number_of_thousands_of_digits_is_refused_in_words(value):
    for check in (check_int, check_number):
        with pytest.raises(InvalidConfig, match="more than 40 digits"):
            check("rank", value, 1, 256)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), True, "1"])
def test_what_is_no_finite_number_is_refused(value):
    with pytest.raises(InvalidConfig):
        check_number("rate", value, 0.0, 1e308)


TERMINAL_ATTACK = "\x1b]0;owned\x07\x9b31m\u202etxt\r"


def test_control_characters_are_shown_and_not_obeyed():
    shown = escape_controls(f"a\tb\n{TERMINAL_ATTACK}")
    assert shown == "a\tb\n\\x1b]0;owned\\x07\\x9b31m\\u202etxt\\r"
    assert json.loads(format_json({"a": TERMINAL_ATTACK})) == {"a": TERMINAL_ATTACK}
    assert format_json(TERMINAL_ATTACK).isascii()


def test_text_of_users_cannot_act_on_a_terminal(cli):
    cli("create", "tickets", "--description", TERMINAL_ATTACK)
    cli(
        "feedback",
        "tickets",
        f"q{TERMINAL_ATTACK}",
        "--answer",
        "a",
        "--critique",
        "no",
        "--user",
        "ann",
    )
    cli("pin", "tickets", f"hello{TERMINAL_ATTACK}", TERMINAL_ATTACK)
    for arguments in (
        ["lineage", "tickets"],
        ["pin", "tickets"],
        ["show", "tickets"],
        ["train", "tickets", f"rows{TERMINAL_ATTACK}.jsonl"],
        ["generate", f"tickets{TERMINAL_ATTACK}", "hi"],
    ):
        ran = cli(*arguments)
        for text in (ran.out, ran.err):
            assert not set(text) & {"\x1b", "\x07", "\x9b", "\u202e", "\r"}, arguments


def test_the_help_of_a_verb_goes_to_stdout(capsys):
    with pytest.raises(SystemExit):
        main(["create", "--help"])
    assert capsys.readouterr().out.startswith("usage: ouroboros create")
