"""`ouroboros data check` shows what is understood of files; `train` reads them all or none."""

import json

import pytest

ROWS = [
    {"question": "Hi", "answer": "Hello", "id": 1},
    {"question": "Bye", "answer": "See you", "id": 2},
    {"question": "Hi", "answer": "Hello", "id": 3},
    {"question": "Hi", "answer": "Go away", "id": 4},
]


def write(path, rows) -> None:
    path.write_text("\n".join(map(json.dumps, rows)))


def test_a_file_is_described_with_counts_lengths_duplicates_and_conflicts(cli, home):
    write(home / "rows.jsonl", ROWS)
    report = cli("data", "check", "rows.jsonl", "--json").json
    assert report["formats"] == {"columns (question, answer)": 4}
    assert (report["rows"], report["examples"], report["judgements"]) == (4, 4, 0)
    assert report["ignored"] == {"id": 4}
    assert report["duplicates"] == [["line 1", "line 3"]]
    assert report["conflicts"] == [
        {"locations": ["line 1", "line 4"], "prompt": "Hi", "answers": ["Hello", "Go away"]}
    ]
    tokens = report["tokens"]
    assert 0 < tokens["shortest"] < tokens["longest"] < tokens["total"] < tokens["context"] * 4
    text = cli("data", "check", "rows.jsonl").out
    assert "Ignored columns: id." in text
    assert text.endswith("ouroboros train NAME rows.jsonl\n")


def test_lengths_are_those_that_a_training_counts(cli, home, tiny):
    from ouroboros.backend.local.model.load import load_base

    write(home / "rows.jsonl", ROWS[1:2])
    tokens = cli("data", "check", "rows.jsonl", "--json").json["tokens"]
    runtime = load_base(str(tiny))
    assert tokens["total"] == len(runtime.tokenizer.encode_pair("Bye", "See you"))
    assert tokens["context"] == runtime.tokenizer.context


def test_rows_that_cannot_be_learned_are_listed_and_the_exit_code_is_2(cli, home):
    write(home / "rows.jsonl", [*ROWS, {"question": "x", "answer": ""}, {"messages": []}])
    ran = cli("data", "check", "rows.jsonl", "--json")
    assert ran.code == 2
    assert [row["location"] for row in ran.json["refused"]] == ["line 5", "line 6"]
    ran = cli("data", "check", "rows.jsonl")
    assert "line 5: The output is empty." in ran.out
    assert "2 rows of 6 cannot be learned" in ran.error


def test_rows_that_exceed_the_context_are_listed(cli, home):
    write(home / "rows.jsonl", [ROWS[0], {"prompt": "word " * 5000, "completion": "x"}])
    ran = cli("data", "check", "rows.jsonl", "--json")
    assert (ran.code, ran.json["tokens"]["too_long"]) == (2, ["line 2"])


def test_judgements_are_recognised_and_contradictions_found(cli, home):
    good = {"prompt": "Hi", "completion": "Hello", "label": True}
    write(home / "kto.jsonl", [good, good | {"label": False}])
    ran = cli("data", "check", "kto.jsonl")
    assert ran.out.endswith("ouroboros feedback NAME --file kto.jsonl\n")
    assert "'Hello' is good | 'Hello' is bad" in ran.out


def test_training_names_ignored_columns_and_reads_several_files(cli, home):
    write(home / "a.jsonl", ROWS[:1])
    (home / "b.csv").write_text("prompt,completion\nBye,See you\n")
    cli("create", "tickets")
    ran = cli("train", "tickets", "a.jsonl", "b.csv", "--epochs", "1")
    assert ran.out.startswith("tickets@2 trained: 2 examples")
    assert "Ignored columns: id." in ran.err


def test_all_wrong_rows_of_a_training_are_shown_below_its_error(cli, home):
    write(home / "rows.jsonl", [ROWS[0], {"prompt": "a"}, {"prompt": "b", "completion": ""}])
    cli("create", "tickets")
    ran = cli("train", "tickets", "rows.jsonl")
    assert ran.code == 2
    assert ran.err.splitlines()[-2:] == [
        "  line 2: The example has no 'completion'.",
        "  line 3: The output is empty.",
    ]
    error = json.loads(cli("train", "tickets", "rows.jsonl", "--json").err.splitlines()[-1])["error"]
    assert len(error["details"]) == 2


@pytest.mark.parametrize("length", [3_000, 200_000])
def test_a_file_of_judgements_is_taken_whole_or_not_at_all(cli, home, length):
    cli("create", "tickets")
    good = {"prompt": "Hi", "answer": "Hm", "correction": "Hello"}
    write(home / "judgements.jsonl", [good, good | {"correction": "x " * length}])
    ran = cli("feedback", "tickets", "--file", "judgements.jsonl")
    assert ran.code == 2
    assert "judgements.jsonl, line 2: " in ran.error
    assert cli("feedback", "tickets", "--pending", "--json").json == []


@pytest.mark.parametrize("option", ["--rate", "--lr"])
def test_a_training_can_have_a_rate_of_its_own_which_a_rebuild_uses(cli, home, option):
    write(home / "rows.jsonl", ROWS[:2])
    cli("create", "tickets")
    plain = cli("train", "tickets", "rows.jsonl", "--epochs", "1", "--json")
    cli("create", "other")
    ran = cli("train", "other", "rows.jsonl", "--epochs", "1", option, "0.02", "--json")
    assert ran.json["training"]["learning_rate"] == 0.02
    assert plain.json["training"]["learning_rate"] is None
    assert ran.json["digest"] != plain.json["digest"]
    assert cli("rebuild", "other@2", "--json").json[0]["identical"] is True


def test_a_rate_out_of_range_is_refused(cli, home):
    write(home / "rows.jsonl", ROWS[:2])
    cli("create", "tickets")
    assert "learning_rate is 7" in cli("train", "tickets", "rows.jsonl", "--lr", "7").error
