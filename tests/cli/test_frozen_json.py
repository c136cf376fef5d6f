"""What every verb prints with --json has its frozen shape: see `shapes.py`."""

import io
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from ouroboros.cli.main import VERBS
from ouroboros.stores.open import open_metadata
from tests.cli.shapes import FROZEN, fits

COMMANDS = [
    "create tickets",
    "create moods --description 'how people feel'",
    "train tickets rows.jsonl --epochs 2",
    "train tickets rows.jsonl --epochs 1",
    "jobs tickets",
    "jobs --resume tickets#1",
    "jobs --cancel tickets#2",
    "feedback tickets 'where is it?' --answer home --critique 'too short' --user ann",
    "rollback tickets@2 --replay",
    "feedback tickets --pending",
    "forget --user ann",
    "chat tickets --max-tokens 4",
    "pin tickets hello hi",
    "merge both tickets moods --probes rows.jsonl --anyway",
    "generate tickets 'where is it?' --max-tokens 4",
    "generate auto 'where is it?' --max-tokens 4",
    "find 'where is it?'",
    "evaluate tickets rows.jsonl",
    "diff tickets@1 tickets --probes rows.jsonl",
    "explain tickets@2",
    "lineage both",
    "list",
    "show tickets",
    "versions tickets",
    "rebuild tickets@2 --line",
    "export both exported",
    "export both exported --gguf",
    "import back exported",
    "backup store.zip",
    "restore store.zip --store restored",
    "migrate --to migrated",
    "delete both",
    "gc",
    "fsck",
    "plan",
    "help train",
    "version",
    "doctor",
    "data check rows.jsonl",
    "keys create ann",
    "keys list",
]
"""Run in this order, in one store."""

TESTED_ELSEWHERE = {"demo", "bench", "model list", "model get tiny.gguf", "model show", "model check"}
TESTED_ELSEWHERE |= {"serve"}
"""Too slow to run twice, or on files of their own: test_demo.py, test_bench.py, test_model.py and
test_serve.py compare their shapes."""

LINES_TYPED = "where is it?\n/fix delivery\n/undo\n/quit\n"


def read_values(text: str) -> list[Any]:
    """The JSON values that were printed one after the other."""
    values, decoder = [], json.JSONDecoder()
    while text := text.strip():
        value, end = decoder.raw_decode(text)
        values.append(value)
        text = text[end:]
    return values


def store_interrupted_jobs(home: Path) -> None:
    """Two trainings whose program was killed, on the examples of the first two events."""
    records = json.loads((Path(__file__).parents[1] / "registry" / "frozen_records.json").read_text())
    job = next(record["value"] for record in records if record["in"] == "jobs")
    (config,) = (r["value"]["training"] for r in records if r.get("key") == "tickets@000000002")
    store = open_metadata(f"sqlite:///{home}/ouroboros-store/metadata.db")
    for event in (1, 2):
        changes = {"event": event, "state": "interrupted", "parent": None, "checkpoint": None}
        training = {**config, "batch_size": 4, "incremental_update": False, "until": None}
        training["learning_rate"] = None
        store.put("jobs", f"tickets#{event}", {**job, **changes, "training": training}, expected=0)
    store.close()


@pytest.fixture
def printed(cli, rows, home, monkeypatch) -> dict[str, list[Any]]:
    """What each of the commands printed."""
    values = {}
    for command in COMMANDS:
        if command == "jobs tickets":
            store_interrupted_jobs(home)
        monkeypatch.setattr("sys.stdin", io.StringIO(LINES_TYPED))
        ran = cli(*shlex.split(command), "--json")
        assert ran.code == 0, (command, ran.err)
        values[command] = read_values(ran.out)
    return values


def test_every_verb_is_among_the_commands() -> None:
    used = {command.split()[0] for command in COMMANDS}
    assert used | {command.split()[0] for command in TESTED_ELSEWHERE} == {verb.NAME for verb in VERBS}


def test_what_is_printed_has_its_frozen_shape(printed) -> None:
    assert printed.keys() | TESTED_ELSEWHERE == FROZEN.keys()
    for command, values in printed.items():
        assert values, command
        assert fits(values, FROZEN[command]), command


def test_a_damaged_store_and_an_error_are_printed_in_their_frozen_shape(cli, home) -> None:
    cli("create", "tickets")
    (weights,) = (home / "ouroboros-store/blobs/adapters").glob("*/adapter_model.safetensors")
    weights.write_bytes(b"damaged")
    ran = cli("fsck", "--json")
    assert ran.code == 7
    (damage,) = ran.json["damages"]
    assert fits(damage, {"version": "str", "what": "str", "served": "bool"})
    error = json.loads(ran.err.splitlines()[-1])
    assert fits(error, {"error": {"code": "str", "message": "str", "hint": "str"}})
