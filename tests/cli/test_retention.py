"""Pins and verdicts on the command line."""


def test_pins_are_set_listed_and_removed(cli, rows):
    cli("create", "tickets")
    assert cli("pin", "tickets").out == "Nothing is pinned.\n"
    pinned = cli("pin", "tickets", "Where is it?", "shipping")
    assert pinned.out == "Where is it? -> shipping\n"
    assert "1 of these answers are not right yet" in pinned.err
    assert cli("pin", "tickets", "--json").json == [{"input": "Where is it?", "output": "shipping"}]
    assert cli("pin", "tickets", "--remove", "Where is it?").out == "Nothing is pinned.\n"


def test_an_unknown_pin_cannot_be_removed(cli):
    cli("create", "tickets")
    ran = cli("pin", "tickets", "--remove", "what?")
    assert ran.code == 3
    assert "No answer to this prompt is pinned" in ran.error


def test_a_pin_is_one_prompt_and_one_answer(cli):
    cli("create", "tickets")
    ran = cli("pin", "tickets", "a prompt", "an answer", "and more")
    assert ran.code == 2
    assert "one prompt and its answer" in ran.error


def test_explain_gives_every_check_and_its_number(cli, rows):
    cli("create", "tickets")
    assert cli("explain", "tickets").out == "tickets@1: created, and never judged.\n"
    cli("train", "tickets", rows, "--epochs", "1")
    lines = cli("explain", "tickets@2").out.splitlines()
    assert lines[0].startswith("tickets@2, trained from @1: ")
    named = [line.split()[1] for line in lines[1:-1] if line.split()[0] in ("ok", "FAILED")]
    assert named[:5] == ["finite", "differs", "strength", "arrived", "drift"]
    verdict = cli("explain", "tickets@2", "--json").json["verdict"]
    assert [check["name"] for check in verdict["checks"]][:5] == named[:5]
    assert all(isinstance(check["value"], float) for check in verdict["checks"][1:5])


def test_an_unknown_version_cannot_be_explained(cli):
    cli("create", "tickets")
    ran = cli("explain", "tickets@7")
    assert ran.code == 3
    assert "no version 7" in ran.error
