"""The demo as `make demo` runs it: the bundled model learns the bundled task."""

import json

import pytest


@pytest.mark.slow
def test_the_starter_learns_the_task(ouroboros):
    found = json.loads(ouroboros("demo", "--model", "starter", "--json").stdout)
    assert found["after"]["accuracy"] > found["before"]["accuracy"] + 0.3
