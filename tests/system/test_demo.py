"""The demo as `make demo` runs it: the bundled model learns the bundled task."""

import json

import pytest


@pytest.mark.slow
def test_the_starter_learns_the_task(ouroboros):
    report = json.loads(ouroboros("demo", "--model", "starter", "--json").stdout)
    assert report["after"]["accuracy"] > report["before"]["accuracy"] + 0.3
