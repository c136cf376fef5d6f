"""Rows that an earlier release wrote can be read, and mean what they meant."""

import json
from pathlib import Path

import pytest

from ouroboros.domain.records import Adapter, HeadMoved, Version
from ouroboros.registry.codec import decode, encode

ROWS = json.loads((Path(__file__).parent / "released_rows.json").read_text())
KINDS = {"version": Version, "adapter": Adapter, "moved": HeadMoved}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['release']} {row['kind']}")
def test_a_released_row_is_read_and_keeps_its_values(row) -> None:
    record = decode(KINDS[row["kind"]], row["value"], "a released row")
    assert holds(encode(record), row["value"])
    assert decode(KINDS[row["kind"]], encode(record), "the same row, written again") == record


def holds(new, old) -> bool:
    """Whether everything that is in `old` is in `new`, at every depth."""
    if isinstance(old, dict):
        return all(key in new and holds(new[key], old[key]) for key in old)
    if isinstance(old, list):
        return len(new) == len(old) and all(map(holds, new, old))
    return new == old


def test_a_released_version_has_parents() -> None:
    versions = [decode(Version, r["value"], "it") for r in ROWS if r["kind"] == "version"]
    assert [[str(p) for p in v.parents] for v in versions] == [["tickets@1"]] * len(versions)
