"""A prompt of plain text has the instructions of the training, unless the user says otherwise."""

import io
import json

import pytest


@pytest.fixture
def instructed(cli, home):
    """An adapter that was trained with a system turn in all examples."""
    lines = [
        {
            "messages": [
                {"role": "system", "content": "Name the team."},
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": answer},
            ]
        }
        for prompt, answer in (("where is my parcel", "delivery"), ("set an alarm", "alarm"))
    ]
    (home / "instructed.jsonl").write_text("\n".join(map(json.dumps, lines)))
    cli("create", "tickets")
    assert cli("train", "tickets", home / "instructed.jsonl", "--epochs", "40").code == 0


def test_generate_asks_plain_text_under_the_instructions_of_the_training(cli, home, instructed):
    plain = cli("generate", "tickets", "set an alarm", "--json").json
    same = cli("generate", "tickets", "set an alarm", "--system", "Name the team.", "--json")
    assert plain["text"] == same.json["text"] == "alarm"
    assert "other instructions" not in same.err
    # A conversation says itself what it has; a note tells that the training had something else.
    conversation = home / "conversation.json"
    conversation.write_text('[{"role": "user", "content": "set an alarm"}]')
    bare = cli("generate", "tickets", "--messages", conversation, "--json")
    without = cli("generate", "tickets", "set an alarm", "--system", "", "--json")
    assert bare.json == without.json
    assert '(the adapter was trained with other instructions: "Name the team.")' in bare.err
    assert "other instructions" in without.err


def test_generate_reads_messages_from_stdin(cli, instructed, monkeypatch):
    messages = [
        {"role": "system", "content": "Name the team."},
        {"role": "user", "content": "set an alarm"},
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(messages)))
    assert cli("generate", "tickets", "--messages", "-", "--json").json["text"] == "alarm"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("hello", "is not JSON"),
        ('{"role": "user"}', "is not a list"),
        ("[3]", "message"),
        ("[]", "is not a list"),
    ],
)
def test_generate_refuses_what_is_not_a_conversation(cli, home, instructed, content, problem):
    (home / "bad.json").write_text(content)
    refused = cli("generate", "tickets", "--messages", home / "bad.json")
    assert refused.code == 2
    assert problem in refused.error


def test_generate_needs_a_prompt_or_messages_and_not_both(cli, instructed):
    assert cli("generate", "tickets").code == 2
    assert cli("generate", "tickets", "hi", "--messages", "x.json").code == 2
    assert cli("generate", "tickets", "--messages", "x.json", "--system", "a").code == 2


def test_chat_keeps_the_instructions_through_the_conversation(cli, instructed, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("set an alarm\n/system\nset an alarm\n/quit\n"))
    chat = cli("chat", "tickets")
    assert "Instructions: Name the team." in chat.err
    assert chat.out.splitlines()[0] == "alarm"
