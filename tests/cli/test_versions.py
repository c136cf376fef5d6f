"""Versions on the command line: listed, compared, drawn, served again; the store looked after."""

import json
import xml.etree.ElementTree as ElementTree

import pytest


@pytest.fixture
def tickets(cli, rows):
    """Two trainings: tickets@2 and tickets@3."""
    cli("create", "tickets")
    cli("train", "tickets", rows, "--epochs", "1")
    cli("train", "tickets", rows, "--epochs", "4")
    return cli


def test_versions_shows_versions_gate_and_moves(tickets):
    shown = tickets("versions", "tickets").out.splitlines()
    assert [line[0] for line in shown[1:4]] == [" ", " ", "*"]
    assert shown[5] == (
        "The gate judged 2 versions: 2 passed as made, 0 after walking back,"
        " 0 after retraining; 0 refused."
    )
    assert "event 2" in shown[3]
    tickets("rollback", "tickets@2")
    track = tickets("versions", "tickets", "--json").json
    assert track["head"] == 2
    assert [(m["before"], m["after"]) for m in track["moves"]] == [(3, 2)]
    assert track["gate"] == {"passed": 2, "walked": 0, "again": 0, "refused": 0}
    assert track["versions"][2]["origin"]["software"]["torch"]


def test_rollback_says_how_to_undo_it_and_does_nothing_twice(tickets):
    assert tickets("rollback", "tickets@2").out.splitlines()[0] == (
        "tickets now serves @2 instead of @3."
    )
    second = tickets("rollback", "tickets@2")
    assert second.out == "tickets already serves @2.\n"
    assert len(tickets("versions", "tickets", "--json").json["moves"]) == 1


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("tickets@9", 3, "has no version 9"),
        ("tickets", 2, "is served already"),
        ("tickets@head", 2, "is served already"),
        ("tickets@x", 2, "is not a version"),
        ("other@1", 3, "no adapter 'other'"),
    ],
)
def test_a_rollback_to_nothing_is_refused(tickets, name, code, message):
    ran = tickets("rollback", name)
    assert (ran.code, tickets("show", "tickets", "--json").json["head"]) == (code, 3)
    assert message in ran.error


def test_diff_compares_weights_events_and_answers(tickets, rows):
    comparison = tickets("diff", "tickets@1", "tickets@3", "--probes", rows, "--json").json
    assert comparison["learned"] == [1, 2]
    assert comparison["strengths"][0] == 0
    assert comparison["distance"] == pytest.approx(comparison["strengths"][1], rel=1e-3)
    assert [a["expected"] for a in comparison["answers"]] == ["delivery", "alarm", "hello"]
    same = tickets("diff", "tickets@2", "tickets@2")
    assert "Their updates differ by 0.000% of the layers' weight norm." in same.out
    assert "Learned in between: nothing." in same.out


def test_lineage_prints_and_draws_the_ancestors(tickets, home):
    tickets("create", "moods")
    tickets("merge", "both", "tickets@2", "moods")
    shown = tickets("lineage", "both", "--svg", "both.svg").out.splitlines()
    assert shown[0].startswith("* both@1")
    assert shown[0].endswith("from tickets@2, moods@1")
    drawn = ElementTree.parse(home / "both.svg").getroot()
    texts = [t.text for t in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"both@1", "tickets@1", "tickets@2", "moods@1"} <= set(texts)
    assert "tickets@3" not in texts
    arrows = [p for p in drawn.iter("{http://www.w3.org/2000/svg}path") if "C" in p.attrib["d"]]
    assert len(arrows) == 3


def test_a_name_with_markup_is_escaped_in_the_picture(cli, home):
    cli("create", 'a<b>&"c')
    assert cli("lineage", 'a<b>&"c', "--svg", "it.svg").code == 0
    ElementTree.parse(home / "it.svg")


def test_a_damaged_head_is_found_and_repaired(tickets, home):
    assert tickets("fsck").out == "Checked 3 versions of 1 adapter: no damage.\n"
    digest = tickets("versions", "tickets", "--json").json["versions"][2]["digest"]
    file = home / f"ouroboros-store/blobs/adapters/{digest}/adapter_model.safetensors"
    file.write_bytes(b"x" + file.read_bytes()[1:])
    ran = tickets("fsck")
    assert ran.code == 7
    assert "tickets@3" in ran.out
    assert "This version is being served." in ran.out
    assert "tickets now serves @2." in tickets("fsck", "--repair").out
    assert tickets("show", "tickets", "--json").json["head"] == 2


def test_gc_removes_weights_without_a_version(tickets, home):
    orphan = home / "ouroboros-store/blobs/adapters" / ("0" * 64)
    orphan.mkdir()
    (orphan / "adapter_config.json").write_text("{}")
    assert json.loads(tickets("gc", "--json").out) == {"removed": [], "waiting": ["0" * 64]}
    assert tickets("gc", "--grace", "0").out == "Removed 1 unused set of weights.\n"
    assert not orphan.exists()
    assert "--grace is -1" in tickets("gc", "--grace=-1").error


def test_a_backup_is_restored_into_an_empty_store_only(tickets):
    assert tickets("backup", "store.zip").out.startswith("Wrote store.zip (")
    assert tickets("backup", "store.zip").code == 4
    restored = tickets("restore", "store.zip", "--store", "./again")
    assert restored.out == "Restored 1 adapter into ./again.\n"
    before = tickets("versions", "tickets", "--json").out
    assert tickets("versions", "tickets", "--json", "--store", "./again").out == before
    assert tickets("restore", "store.zip").code == 4
    assert tickets("restore", "rows.jsonl", "--store", "./other").code == 2


@pytest.mark.parametrize("verb", ["versions x", "lineage x", "fsck", "gc", "backup f"])
def test_reading_verbs_need_a_store(cli, home, verb):
    ran = cli(*verb.split())
    assert ran.code == 3
    assert not (home / "ouroboros-store").exists()
