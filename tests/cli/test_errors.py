"""Bad input: one clear line, the right exit code, nothing changed."""

import json
import shutil
from pathlib import Path

import pytest

from ouroboros.cli.main import VERBS, main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tran"], "Did you mean train?"),
        (["train", "a", "b", "--epohs", "3"], "Did you mean --epochs?"),
        (["--stoer", "x", "list"], "Did you mean --store?"),
        (["--modle=x", "list"], "Did you mean --model?"),
        (["generate", "a", "where", "is", "it"], "Put quotes around"),
        (["train", "a"], "Missing: FILE"),
        (["create", "a", "--rank", "eight"], "eight"),
        (["create", "a", "--preset", "lowrank"], "lowrank"),
        (["create", ""], "name is empty"),
        (["create", "   "], "name is empty"),
        (["create", "x" * 10_000], "10000 characters"),
        (["create", "a\tb"], "'\\t'"),
        (["create", "a@b"], "separates a name from a version"),
        (["create", "a", "--rank", "0"], "rank is 0"),
        (["create", "a", "--rank", "257"], "rank is 257"),
        (["create", "a", "--rate", "nan"], "learning_rate is nan"),
        (["create", "a", "--rate", "0"], "learning_rate is 0"),
        (["create", "a", "--alpha", "inf"], "alpha is inf"),
        (["create", "a", "--max-steps", "0"], "max_steps is 0"),
        (["create", "a", "--targets", "nothing_proj"], "q_proj"),
        (["create", "a", "--threads", "0"], "threads is 0"),
        (["create", "a", "--dtype", "float8"], "bfloat16"),
    ],
)
def test_a_wrong_argument_is_refused(cli, home, arguments, message):
    ran = cli(*arguments)
    assert ran.code == 2
    assert message in ran.error
    assert cli("list", "--json").json == []


@pytest.mark.parametrize(
    "arguments", [["show", "x"], ["delete", "x"], ["generate", "x", "hi"], ["train", "x", "rows.jsonl"]]
)
def test_an_unknown_adapter_is_not_found(cli, rows, home, arguments):
    assert cli(*arguments).code == 3
    assert not (home / "ouroboros-store").exists()
    cli("create", "other")
    ran = cli(*arguments)
    assert ran.code == 3
    assert "'x'" in ran.error


def test_a_name_is_given_once(cli):
    cli("create", "a")
    second = cli("create", "a")
    assert second.code == 4
    assert "already" in second.error


@pytest.mark.parametrize(
    ("option", "value"),
    [("--epochs", "0"), ("--batch-size", "0"), ("--seed", "-1"), ("--epochs", "20000")],
)
def test_a_wrong_training_leaves_the_adapter_as_it_was(cli, rows, option, value):
    cli("create", "a")
    ran = cli("train", "a", rows, option, value)
    assert ran.code == 2
    assert value in ran.error
    assert cli("show", "a", "--json").json["head"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no examples"),
        ('{"prompt": "a", "completion": "b"}\n{oops\n', "rows.jsonl, line 2"),
        ('{"prompt": "a", "completion": "  "}\n', "output is empty"),
        ('{"prompt": "a", "completion": "b", "weight": -1}\n', "weight is -1"),
    ],
)
def test_a_wrong_file_is_refused_by_line(cli, rows, text, message):
    cli("create", "a")
    rows.write_text(text)
    ran = cli("train", "a", rows)
    assert ran.code == 2
    assert message in ran.error
    assert cli("show", "a", "--json").json["head"] == 1


def test_a_missing_file_is_named(cli):
    assert "absent.jsonl cannot be read: No such file" in cli("train", "a", "absent.jsonl").error


def test_an_example_longer_than_the_context_is_named(cli, rows):
    cli("create", "a")
    long = {"prompt": "a", "completion": "xyz " * 400}
    rows.write_text(f'{{"prompt": "a", "completion": "b"}}\n{json.dumps(long)}\n')
    ran = cli("train", "a", rows)
    assert ran.code == 2
    assert "2" in ran.error
    assert "256" in ran.error
    assert cli("show", "a", "--json").json["head"] == 1


def test_a_missing_model_is_one_line(cli):
    ran = cli("create", "a", "--model", "./nowhere")
    assert ran.code == 6
    assert "nowhere" in ran.error


def test_a_model_without_tokenizer_is_refused(cli, tiny, home):
    folder = Path(shutil.copytree(tiny, home / "model"))
    for file in folder.glob("tokenizer*"):
        file.unlink()
    ran = cli("create", "a", "--model", folder)
    assert ran.code == 6
    assert "no tokenizer" in ran.error


def test_a_pickled_model_is_refused(cli, tiny, home):
    folder = Path(shutil.copytree(tiny, home / "model"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    ran = cli("create", "a", "--model", folder)
    assert ran.code == 6
    assert "pickle" in ran.error


def test_an_adapter_of_another_base_is_refused(cli, rows, tmp_path_factory):
    from ouroboros.testing.tiny import tiny_model

    cli("create", "a")
    other = tiny_model(tmp_path_factory.mktemp("other"), seed=1)
    for verb in (["train", "a", rows], ["generate", "a", "hi"]):
        ran = cli(*verb, "--model", other)
        assert ran.code == 5
        assert "weights differ" in ran.error
    assert cli("show", "a", "--json").json["head"] == 1


def test_a_store_that_cannot_be_written_is_one_line(cli, home):
    (home / "file").write_text("in the way")
    ran = cli("create", "a", "--store", "./file/store")
    assert ran.code == 7
    assert ran.error


def test_a_version_is_not_taken_for_its_adapter_by_delete(cli):
    cli("create", "a")
    ran = cli("delete", "a@1")
    assert ran.code == 2
    assert "one version" in ran.error
    assert cli("show", "a").code == 0


def test_errors_are_json_for_programs(cli):
    cli("create", "a")
    ran = cli("show", "x", "--json")
    assert ran.code == 3
    assert ran.out == ""
    assert json.loads(ran.err)["error"]["code"] == "not_found"


def test_debug_shows_where_an_error_came_from(cli):
    assert "Traceback" in cli("show", "x", "--debug").err


def test_a_bug_is_reported_as_one(cli, monkeypatch):
    monkeypatch.setattr("ouroboros.cli.listing.store_exists", lambda settings: 1 / 0)
    ran = cli("list")
    assert ran.code == 1
    assert "ZeroDivisionError" in ran.error


def test_ctrl_c_stops_quietly(cli, monkeypatch):
    def interrupt(settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("ouroboros.cli.listing.store_exists", interrupt)
    ran = cli("list")
    assert ran.code == 130
    assert ran.err == "Stopped.\n"


def test_every_verb_has_help_with_examples(capsys):
    for verb in VERBS:
        with pytest.raises(SystemExit) as exit:
            main([verb.NAME, "--help"])
        assert exit.value.code == 0
        shown = capsys.readouterr().out
        assert f"\nexamples:\n  ouroboros {verb.NAME}" in shown
        assert "--store URL" in shown


def test_without_a_verb_the_help_is_shown(capsys):
    assert main([]) == 0
    assert "VERB" in capsys.readouterr().out
