"""`ouroboros find`, and `generate auto`."""

import pytest


@pytest.fixture
def trained(cli, home):
    """A store with one adapter, trained on two examples."""
    (home / "rows.jsonl").write_text(
        '{"prompt": "where is my parcel?", "completion": "shipping"}\n'
        '{"prompt": "has the parcel been sent?", "completion": "shipping"}\n'
    )
    assert cli("create", "tickets").code == 0
    assert cli("train", "tickets", "rows.jsonl", "--epochs", "30").code == 0
    return cli


def test_find_lists_the_nearest_with_what_it_takes(trained):
    ran = trained("find", "where is my parcel?", "--json")
    (match,) = ran.json
    assert match["adapter"] == "tickets"
    assert match["similarity"] > match["needed"]
    assert match["sure"]
    assert "tickets" in trained("find", "where is my parcel?").out


def test_generate_auto_says_who_answered(trained):
    ran = trained("generate", "auto", "where is my parcel?")
    assert ran.code == 0
    assert "tickets@2 answered" in ran.err
    assert trained("generate", "auto", "where is my parcel?", "--json").json["version"] == "tickets@2"


def test_without_adapters_the_bare_model_answers(cli):
    assert cli("create", "a").code == 0
    assert cli("delete", "a").code == 0
    assert "There are no adapters." in cli("find", "hello").out
    assert "the base model answered" in cli("generate", "auto", "hello", "--max-tokens", "2").err


def test_an_unknown_embedding_is_refused(cli):
    assert cli("create", "a").code == 0
    assert "embedding" in cli("find", "hello", "--embedding", "magic").error


def test_find_needs_a_store(cli):
    assert cli("find", "hello").code == 3
