"""The blocking face offers every verb of the engine, under the same name."""

import inspect

from ouroboros.engine import AdapterLearningEngine
from ouroboros.sync import SyncEngine


def _public(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, callable) if not name.startswith("_")}


def test_every_verb_has_a_blocking_form():
    assert _public(SyncEngine) == _public(AdapterLearningEngine)


def test_a_blocking_verb_keeps_its_documentation():
    assert SyncEngine.train_adapter.__doc__ == AdapterLearningEngine.train_adapter.__doc__
