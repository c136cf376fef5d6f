"""Each verb's result, for people and for programs."""

import io
import json

import pytest


def test_create_chooses_what_suits_the_model(cli):
    created = cli("create", "tickets", "--json")
    assert created.code == 0
    assert created.json["name"] == "tickets"
    assert created.json["config"]["target_modules"] == "all-linear"
    assert created.json["config"]["learning_rate"] == 0.01


def test_create_takes_single_fields_and_presets(cli):
    created = cli("create", "t", "--preset", "low-rank", "--rate", "0.001", "--rslora", "--json")
    assert created.json["config"]["rank"] == 4
    assert created.json["config"]["target_modules"] == "q_proj,v_proj"
    assert created.json["config"]["learning_rate"] == 0.001
    assert created.json["config"]["use_rslora"] is True


def test_create_makes_the_least_change_that_fits_when_asked(cli):
    fitting = ("create", "wide", "--rank", "256", "--precision", "float32")
    assert cli(*fitting, "--fit", "--json").json["config"]["precision"] == "float32"
    assert "stored in float32" in cli("show", "wide").out


def test_create_makes_an_adapter_that_acts_on_answers_only(cli):
    assert "all-linear, on answers only" in cli("create", "answers", "--answer-only").out
    assert cli("show", "answers", "--json").json["config"]["acts_on"] == "answer"


def test_create_says_what_to_type_next(cli):
    created = cli("create", "my tickets")
    assert created.out.splitlines()[0].startswith("Created my tickets on ")
    assert created.out.splitlines()[-1].endswith(" train 'my tickets' FILE.jsonl")


def test_train_makes_a_version_and_shows_its_steps(cli, rows):
    cli("create", "tickets")
    trained = cli("train", "tickets", rows, "--epochs", "2", "--batch-size", "2")
    assert trained.code == 0
    assert trained.out.startswith("tickets@2 trained: 3 examples, 4 steps")
    steps = [line for line in trained.err.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in steps] == ["1/4", "2/4", "3/4", "4/4"]
    assert all("loss" in line and "left" in line for line in steps)


def test_train_reports_in_json(cli, rows):
    cli("create", "tickets")
    version = cli("train", "tickets", rows, "--preset", "thorough", "--seed", "7", "--json").json
    assert version["version"] == "tickets@2"
    assert version["training"]["epochs"] == 3
    assert version["training"]["seed"] == 7
    assert version["report"]["rows"] == 3


def test_generate_streams_the_text_that_json_gives_whole(cli, rows):
    cli("create", "tickets")
    cli("train", "tickets", rows)
    whole = cli("generate", "tickets", "where is my parcel", "--max-tokens", "8", "--json").json
    assert whole["version"] == "tickets@2"
    streamed = cli("generate", "tickets", "where is my parcel", "--max-tokens", "8")
    assert streamed.out.strip() == whole["text"].strip()


def test_generate_reads_the_prompt_from_stdin(cli, monkeypatch):
    cli("create", "tickets")
    monkeypatch.setattr("sys.stdin", io.StringIO("where is my parcel"))
    piped = cli("generate", "tickets", "-", "--max-tokens", "4", "--json").json
    typed = cli("generate", "tickets", "where is my parcel", "--max-tokens", "4", "--json").json
    assert piped == typed


def test_generate_says_when_the_answer_is_cut(cli):
    cli("create", "tickets")
    cut = cli("generate", "tickets", "where is my parcel", "--max-tokens", "1")
    assert "--max-tokens" in cut.err


def test_evaluate_counts_right_answers(cli, rows):
    cli("create", "tickets")
    evaluation = cli("evaluate", "tickets@1", rows, "--json").json
    assert evaluation["rows"] == 3
    assert len(evaluation["answers"]) == 3
    assert cli("evaluate", "tickets@1", rows).out.startswith(f"tickets@1: {evaluation['correct']} of 3")


def test_evaluate_shows_wrong_answers_and_confusions(cli, rows):
    cli("create", "tickets")
    cli("train", "tickets", rows)
    twice = rows.parent / "twice.jsonl"
    known = {"where is my parcel": "delivery", "set an alarm": "alarm"}
    pairs = [*known.items(), *known.items(), ("where is my parcel", "alarm")]
    lines = [json.dumps({"prompt": prompt, "completion": label}) for prompt, label in pairs]
    twice.write_text("\n".join(lines))
    shown = cli("evaluate", "tickets", twice)
    result = cli("evaluate", "tickets", twice, "--json").json
    assert "is right if it equals the expected output exactly" in shown.out
    assert result["metric"] == "exact"
    assert (
        [e["right"] for e in result["examples"]].count(False) == result["rows"] - result["correct"] > 0
    )
    last = result["examples"][-1]
    assert (last["expected"], last["right"]) == ("alarm", False)
    assert f"expected  alarm\n    answered  {last['answer']}" in shown.out
    (line,) = [line for line in shown.out.splitlines() if line.startswith("expected  right")]
    assert line.split()[2:-1] == ["alarm", "delivery"]
    assert result["classes"]["alarm"]["rows"] == 3
    assert "answered" not in cli("evaluate", "tickets", twice, "--show", "0").out
    assert cli("evaluate", "tickets", twice, "--show", "-1").code == 2


def test_evaluate_counts_answers_that_keep_rules(cli, rows, home):
    cli("create", "tickets")
    rules = home / "rules.json"
    rules.write_text(
        '[{"rule": "be anything", "pattern": ""}, {"rule": "be a poem", "pattern": "^Roses"}]'
    )
    shown = cli("evaluate", "tickets", rows, "--rules", rules)
    assert "0 of 3 answers keep all rules." in shown.out
    assert "be anything  3 of 3" in shown.out
    result = cli("evaluate", "tickets", rows, "--rules", rules, "--json").json
    assert result["rules"] == {"be anything": 3, "be a poem": 0}
    assert result["examples"][0]["broken_rules"] == ["be a poem"]
    rules.write_text("[]")
    assert cli("evaluate", "tickets", rows, "--rules", rules).code == 2


def test_list_is_empty_without_making_a_store(cli, home):
    assert cli("list").out.startswith("No adapters in ./ouroboros-store yet.")
    assert cli("list", "--json").json == []
    assert not (home / "ouroboros-store").exists()


def test_a_long_list_comes_in_pages(cli):
    for name in ("a", "b", "c"):
        cli("create", name)
    assert [a["name"] for a in cli("list", "--limit", "1", "--after", "a", "--json").json] == ["b"]
    assert "No adapter" in cli("list", "--after", "c").out
    assert cli("list", "--limit", "0").code == 2


def test_list_and_show_print_adapters_and_versions(cli, rows):
    for name in ("b", "a"):
        cli("create", name)
    cli("train", "a", rows)
    assert [a["name"] for a in cli("list", "--json").json] == ["a", "b"]
    assert cli("list").out.splitlines()[1].split()[:2] == ["a", "@2"]
    shown = cli("show", "a", "--json").json
    assert [v["number"] for v in shown["versions"]] == [1, 2]
    assert shown["head"] == 2
    assert "serves @2" in cli("show", "a").out


def test_delete_forgets_one_adapter(cli):
    cli("create", "a")
    cli("create", "b")
    assert cli("delete", "a").out == "Deleted a and its 1 version.\n"
    assert [a["name"] for a in cli("list", "--json").json] == ["b"]


@pytest.mark.parametrize("where", ["before", "after"])
def test_options_of_every_verb_stand_before_or_after_it(cli, home, where):
    option, verb = ["--store", "./elsewhere"], ["create", "a"]
    assert cli(*(option + verb if where == "before" else verb + option)).code == 0
    assert (home / "elsewhere" / "metadata.db").is_file()
    assert not (home / "ouroboros-store").exists()
