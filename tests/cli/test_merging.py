"""merge, plan, import and export."""

import json

import gguf
import pytest
from peft import PeftConfig


@pytest.fixture
def two(cli):
    """Two adapters that have learned nothing yet."""
    cli("create", "tickets")
    cli("create", "moods")


def test_merge_makes_a_new_adapter(cli, two, rows):
    cli("train", "tickets", rows, "--epochs", "2")
    merged = cli("merge", "both", "tickets", "moods")
    assert merged.code == 0
    assert merged.out.startswith("Merged into both at rank 8, without loss.")
    assert "\nThe gate: promoted: " in merged.out
    assert [a["name"] for a in cli("list", "--json").json] == ["both", "moods", "tickets"]
    cause = cli("show", "both", "--json").json["versions"][0]["cause"]
    assert cause == "merged tickets@2, moods@1 (task_arithmetic)"


def test_merge_takes_every_dial_and_reports_in_json(cli, two):
    dials = ("--strategy", "dare", "--weights=1,-0.5", "--density", "0.3", "--seed", "1")
    more = ("--scale", "0.5", "--space", "core", "--rank", "2")
    report = cli("merge", "both", "tickets@1", "moods", *dials, *more, "--anyway", "--json").json
    assert report["rank"] == 2
    assert report["relative_error"] == 0.0, "there was nothing to lose"
    assert report["accuracy"] == {}


@pytest.mark.parametrize(
    ("strategy", "warned"),
    [("average", True), ("weighted", True), ("task_arithmetic", False), ("tsv", False)],
)
def test_strategies_that_divide_the_updates_say_so_beforehand(cli, two, strategy, warned):
    merging = cli("merge", "both", "tickets", "moods", "--strategy", strategy)
    assert ("only its share of its update" in merging.err) is warned


def test_merge_with_probes_compares_all_and_is_refused_or_advised_against(cli, two, rows):
    dials = ("--strategy", "task_arithmetic", "--weights=-1,-1", "--probes", rows)
    refused = cli("merge", "both", "tickets", "moods", *dials)
    assert refused.code == 11
    assert "Merging did not help: both failed: differs" in refused.error
    merged = cli("merge", "both", "tickets", "moods", *dials, "--anyway")
    assert [line.split()[0] for line in merged.out.splitlines()[2:6]] == [
        "adapter",
        "tickets@1",
        "moods@1",
        "both",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("tickets",), 2, "at least two"),
        (("tickets", "tickets"), 2, "named twice"),
        (("tickets", "nobody"), 3, "no adapter 'nobody'"),
        (("tickets", "moods", "--weights=1,x", "--strategy", "weighted"), 2, "--weights=1,-0.5"),
        (("tickets", "moods", "--weights=1", "--strategy", "weighted"), 2, "1 weights for 2"),
        (("tickets", "moods", "--strategy", "weighted"), 2, "no weights"),
        (("tickets", "moods", "--density", "0"), 2, "density"),
    ],
)
def test_what_cannot_be_merged_is_one_line_and_makes_nothing(cli, two, arguments, code, words):
    refused = cli("merge", "both", *arguments)
    assert refused.code == code
    assert words in refused.error
    assert [a["name"] for a in cli("list", "--json").json] == ["moods", "tickets"]


def test_plan_reads_the_configuration_alone(cli, home):
    (home / "config.json").write_text(
        '{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,'
        ' "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000}'
    )
    planned = cli("plan", home, "--rank", "16")
    assert "6,738.4 million parameters" in planned.out
    assert "64 (auto)         bfloat16   16.0 MiB   no    9" in planned.out
    plan = cli("plan", home, "--rank", "16", "--json").json
    assert plan["limit"] == 10 * 2**20
    assert [p["fits"] for p in plan["plans"][:4]] == [False, False, True, True]


def test_plan_refuses_an_invalid_rank_and_a_missing_folder(cli, home):
    assert cli("plan", "--rank", "0").code == 2
    assert cli("plan", home / "missing").code == 6


def test_what_is_exported_can_be_imported(cli, two, home):
    assert cli("export", "tickets", home / "out").code == 0
    assert PeftConfig.from_pretrained(str(home / "out")).peft_type == "LORA"
    assert cli("import", "back", home / "out").code == 0
    digests = [
        cli("show", name, "--json").json["versions"][-1]["digest"] for name in ("tickets", "back")
    ]
    assert digests[0] == digests[1]


def test_gguf_export_is_one_file(cli, two, home):
    written = cli("export", "tickets", home / "out", "--gguf", "--json").json
    (path,) = written["files"]
    assert gguf.GGUFReader(path).fields["general.type"].contents() == "adapter"


def test_export_overwrites_nothing(cli, two, home):
    cli("export", "tickets", home / "out")
    before = (home / "out" / "adapter_config.json").read_bytes()
    refused = cli("export", "moods", home / "out")
    assert refused.code == 4
    assert "exists already" in refused.error
    assert (home / "out" / "adapter_config.json").read_bytes() == before


def test_import_says_what_is_missing(cli, home):
    refused = cli("import", "x", home / "nowhere")
    assert refused.code == 2
    assert "cannot be read" in refused.error


def test_import_refuses_a_pickle(cli, home):
    (home / "adapter_config.json").write_text("{}")
    (home / "adapter_model.bin").write_bytes(b"\x80\x04")
    refused = cli("import", "x", home)
    assert refused.code == 2
    assert "pickle" in refused.error


def test_import_refuses_what_is_not_supported_by_name(cli, two, home):
    cli("export", "tickets", home / "out")
    config = home / "out" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "use_dora": True}))
    refused = cli("import", "x", home / "out")
    assert refused.code == 2
    assert "use_dora" in refused.error
