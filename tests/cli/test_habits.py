"""What people's hands type: help, version, doctor, verbs of other programs, and conversations."""

import io
import json
import sys

import pytest

from ouroboros.cli import describe
from ouroboros.cli.doctor import available_memory, find_problems, has_bfloat16
from ouroboros.cli.main import VERBS, main
from ouroboros.cli.output import escape_controls
from ouroboros.cli.parser import SIMILAR
from ouroboros.domain.errors import InvalidConfig
from ouroboros.settings import Settings


@pytest.mark.parametrize(
    ("word", "verb"),
    [
        ("ls", "list"),
        ("logs", "versions"),
        ("rm", "delete"),
        ("undo", "rollback"),
        ("predict", "generate"),
    ],
)
def test_a_verb_of_another_program_leads_to_ours(cli, word, verb):
    ran = cli(word)
    assert ran.code == 2
    assert f"Did you mean {verb}?" in ran.error


def test_every_suggested_verb_exists():
    assert set(SIMILAR.values()) <= {verb.NAME for verb in VERBS}
    assert not {word for words in SIMILAR for word in words.split()} & {verb.NAME for verb in VERBS}


@pytest.mark.parametrize(
    "arguments", [["create", "--", "-v", "--store", "s"], ["show", "a", "--", "--json"]]
)
def test_an_option_after_two_dashes_is_an_argument(cli, arguments):
    ran = cli(*arguments)
    assert ran.code == 2
    assert f"Unexpected argument '{arguments[-2] if '--store' in arguments else '--json'}'" in ran.error
    assert "Did you mean" not in ran.error


def test_help_shows_all_verbs_or_one(cli):
    assert cli("help").out == cli().out
    assert "--epochs N" in cli("help", "train").out
    ran = cli("help", "trian")
    assert ran.code == 2
    assert "Did you mean train?" in ran.error


def test_version_is_a_verb_too(cli):
    assert cli("version").out == cli("--version").out


def test_doctor_shows_what_there_is_and_what_is_wrong(cli, home):
    report = cli("doctor", "--json").json
    assert report["packages"]["torch"]
    assert report["store"]["exists"] is False
    assert report["cores"] >= 1
    assert cli("doctor").out.startswith("ouroboros  ")
    worst = report | {
        "packages": {"torch": None},
        "memory_free": 10,
        "store": report["store"] | {"writable": False, "disk_free": 10},
    }
    problems = " ".join(find_problems(worst))
    for words in ("pip install torch", "cannot be written", "of memory are free", "on the store's disk"):
        assert words in problems
    assert list(find_problems(report | {"memory_free": None})) == []


def test_doctor_reads_the_machine():
    assert has_bfloat16("flags : fpu avx512_bf16 amx_tile")
    assert not has_bfloat16("flags : fpu avx2")
    assert available_memory("MemTotal: 9 kB\nMemAvailable:   1024 kB\n") == 2**20
    assert available_memory("") is None


@pytest.mark.parametrize("device", ["cuda:1", "cuda:0", "cuda", "cpu", "auto"])
def test_one_of_several_devices_can_be_named(device):
    assert Settings.load({"device": device}, environ={}).device == device


@pytest.mark.parametrize("device", ["cuda:", "cuda:x", "cpu:1", "cuda:1:2", "tpu"])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(InvalidConfig, match="device"):
        Settings.load({"device": device}, environ={})


def test_train_reads_stdin(cli, rows, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(rows.read_bytes())))
    cli("create", "tickets")
    assert cli("train", "tickets", "-").out.startswith("tickets@2 trained: 3 examples")


def chat(cli, monkeypatch, name: str, *lines: str):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    ran = cli("chat", name, "--max-tokens", "6", "--json")
    assert ran.code == 0
    decoder, values, text = json.JSONDecoder(), [], ran.out.strip()
    while text:
        value, end = decoder.raw_decode(text)
        values.append(value)
        text = text[end:].strip()
    return values, ran.err


def test_chat_keeps_to_the_version_that_it_was_given(cli, rows, monkeypatch):
    cli("create", "tickets")
    cli("train", "tickets", rows, "--epochs", "20")
    first, head = (
        cli("generate", ref, "set an alarm", "--max-tokens", "6", "--json").json["text"]
        for ref in ("tickets@1", "tickets")
    )
    assert first != head
    values, err = chat(cli, monkeypatch, "tickets@1", "set an alarm")
    assert values == [{"answer": first}]
    assert "Chatting with tickets@1." in err
    assert chat(cli, monkeypatch, "tickets", "set an alarm")[0] == [{"answer": head}]


def test_chat_remembers_the_conversation_until_it_is_reset(cli, monkeypatch):
    prompts = []
    from ouroboros.engine import AdapterLearningEngine

    generate = AdapterLearningEngine.generate_with_adapter

    async def record(self, prompt, *args, **kwargs):
        prompts.append(prompt)
        return await generate(self, prompt, *args, **kwargs)

    monkeypatch.setattr(AdapterLearningEngine, "generate_with_adapter", record)
    cli("create", "tickets")
    lines = ("one", "two", "/regenerate", "/reset", "three", "/system Be brief.", "four", "/nonsense")
    values, err = chat(cli, monkeypatch, "tickets", *lines)
    roles = [p if isinstance(p, str) else [m.role for m in p] for p in prompts]
    second = ["user", "assistant", "user"]
    assert roles == ["one", second, second, "three", ["system", "user"]]
    assert prompts[1][1].content == values[0]["answer"]
    assert len(values) == 5
    assert "There is no command /nonsense." in err


def test_chat_streams_on_a_terminal(cli, monkeypatch, capsys):
    from ouroboros.engine import AdapterLearningEngine

    cli("create", "tickets")
    whole = cli("generate", "tickets", "one", "--max-tokens", "6", "--json").json["text"]
    streamed = []
    stream = AdapterLearningEngine.stream_with_adapter

    async def record(self, *args, **kwargs):
        async for piece in stream(self, *args, **kwargs):
            streamed.append(piece.unwrap().text)
            yield piece

    monkeypatch.setattr(AdapterLearningEngine, "stream_with_adapter", record)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n"))
    assert main(["chat", "tickets", "--max-tokens", "6"]) == 0
    assert capsys.readouterr().out.strip() == escape_controls(whole).strip()
    assert "".join(streamed).strip() == whole.strip()
    assert len(streamed) > 1


def test_generate_takes_instructions(cli, monkeypatch):
    cli("create", "tickets")
    plain = cli("generate", "tickets", "one", "--max-tokens", "6", "--json").json
    with_system = ["generate", "tickets", "one", "--system", "Be brief.", "--max-tokens", "6"]
    instructed = cli(*with_system, "--json").json
    assert instructed["prompt_tokens"] > plain["prompt_tokens"]


@pytest.mark.parametrize(
    ("count", "shown"), [(2048, "2 KiB"), (3 * 2**19, "1.5 MiB"), (20 * 2**30, "20.0 GiB")]
)
def test_sizes_have_a_fitting_unit(count, shown):
    assert describe.size(count) == shown
