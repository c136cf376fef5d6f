from ouroboros.domain.data import Row
from ouroboros.learning.replay.anchors import ANCHORS, DRIFT_ANCHORS, PROSE, list_protected_examples


def test_what_is_known_is_protected_among_plain_exchanges_before_all_prose() -> None:
    protected = list_protected_examples([Row("p", "a"), Row("q", "b")])
    assert [(e.input, e.output) for e in protected[len(ANCHORS) :][:2]] == [("p", "a"), ("q", "b")]
    assert {*protected} >= {*ANCHORS, *PROSE}
    assert protected[-len(PROSE) :] == PROSE


def test_what_drift_is_asked_on_is_never_trained_on_or_protected() -> None:
    assert {*list_protected_examples(())}.isdisjoint(DRIFT_ANCHORS)
