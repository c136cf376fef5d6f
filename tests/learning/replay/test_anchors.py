from ouroboros.domain.data import Row
from ouroboros.learning.replay.anchors import ANCHORS, DRIFT_ANCHORS, PROSE, select_protected


def test_what_is_known_is_protected_among_plain_exchanges_before_all_prose() -> None:
    found = select_protected([Row("p", "a"), Row("q", "b")])
    assert [(e.input, e.output) for e in found[len(ANCHORS) :][:2]] == [("p", "a"), ("q", "b")]
    assert {*found} >= {*ANCHORS, *PROSE}
    assert found[-len(PROSE) :] == PROSE


def test_what_drift_is_asked_on_is_never_trained_on_or_protected() -> None:
    assert {*select_protected(())}.isdisjoint(DRIFT_ANCHORS)
