"""`ouroboros bench`: a table of this machine and model, whose figures are measured."""

import json

from ouroboros.cli.main import main
from tests.cli.shapes import FROZEN, fits


def test_every_figure_is_measured(tiny, capsys):
    assert main(["bench", "--model", str(tiny), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert fits(report, FROZEN["bench"])
    figures = {f["what"]: f["value"] for f in report["figures"]}
    assert len(figures) == 8
    assert all(value > 0 for value in figures.values())
    assert {f["unit"] for f in report["figures"]} == {"tokens/s", "ms"}
