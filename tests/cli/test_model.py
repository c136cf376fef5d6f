"""`ouroboros model`: what is here, fetched by name or converted, described and checked."""

import shlex
from pathlib import Path

import pytest

from tests.cli.shapes import FROZEN, fits
from tests.models.gguf_files import tiny_gguf


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models are kept here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ouroboros" / "models"


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return tiny_gguf(tmp_path)[1]


def test_the_bundled_model_and_those_by_name_are_listed(cli):
    ran = cli("model", "list")
    assert [line.split()[0] for line in ran.out.splitlines()] == ["model", "starter", "smollm2"]
    assert "not fetched" in ran.out


def test_a_converted_file_is_listed_and_can_be_used(cli, gguf, cache):
    ran = cli("model", "get", gguf)
    assert ran.code == 0 and "is ready" in ran.out
    listed = cli("model", "list", "--json").json[-1]
    assert (listed["state"], listed["source"]) == ("cached", "model.gguf, from F32")
    assert cli("--model", gguf, "create", "tickets").code == 0
    shown = cli("model", "show", listed["name"], "--json").json
    assert shown["adapters"] == ["tickets"]


def test_what_is_shown_of_a_model(cli, gguf):
    shown = cli("model", "show", gguf).out
    for words in [
        "llama",
        "2 layers of width 64",
        "256 tokens",
        "template   yes",
        "largest rank",
        "none in",
    ]:
        assert words in shown


def test_without_a_name_the_model_of_the_settings_is_shown(cli, tiny):
    assert cli("model", "show", "--json").json["model"] == str(tiny)


def test_a_model_without_a_template_is_said_to_have_none(cli, tmp_path):
    _, path = tiny_gguf(tmp_path, tokenizer__chat_template=None)
    assert "plain text" in cli("model", "get", path).err
    assert "template   no: prompts are plain text" in cli("model", "show", path).out


def test_a_whole_model_passes_the_check(cli, gguf):
    ran = cli("model", "check", gguf)
    assert ran.code == 0
    assert "loads: every tensor is there" in ran.out
    assert "model.safetensors" in ran.out and "as recorded" in ran.out


def test_a_changed_file_fails_the_check(cli, gguf, cache):
    folder = Path(cli("model", "get", gguf, "--json").json["folder"])
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    ran = cli("model", "check", gguf)
    assert ran.code == 6
    assert "is damaged: model.safetensors" in ran.error
    assert f"Remove {folder}" in ran.error


def test_a_model_that_cannot_be_got(cli):
    ran = cli("model", "get", "smollm3")
    assert ran.code == 3
    assert "Known are starter and smollm2" in ran.error


@pytest.mark.parametrize("arguments", [("get",), ("list", "starter"), ("look",)])
def test_arguments_that_do_not_fit(cli, arguments):
    assert cli("model", *arguments).code == 2


@pytest.mark.parametrize("command", [c for c in FROZEN if c.startswith("model ")])
def test_what_is_printed_has_its_frozen_shape(cli, command, gguf, home):
    (home / "tiny.gguf").write_bytes(gguf.read_bytes())
    cli("--model", "tiny.gguf", "create", "tickets")
    assert fits([cli(*shlex.split(command), "--json").json], FROZEN[command])
