"""Where a version came from, through merges, and what it learned."""

from collections.abc import Callable

import pytest

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.merging import MergeRecipe
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Lesson, MergedFrom
from ouroboros.domain.weights import AdapterFiles
from ouroboros.learning.feedback.signals import feedback_event
from ouroboros.registry.lineage import list_ancestors, list_new_events, read_learned_events
from ouroboros.registry.registry import Registry
from ouroboros.registry.version_draft import AppliedFeedback

TICKETS, MOODS, BOTH = map(AdapterId, ("tickets", "moods", "both"))
MakeFiles = Callable[[object], AdapterFiles]


@pytest.fixture
def family(registry: Registry, base: BaseModel, make_files: MakeFiles) -> Registry:
    """tickets@1 -> @2 (trained on event 1) -> @3 (feedback 2 and 4); both@1 = tickets@3 + moods@1."""
    for name in (TICKETS, MOODS):
        registry.create_adapter(name, AdapterConfig(), base, make_files(name))
    seq = registry.journal.append_examples(TICKETS, [TrainingExample("a", "b")])
    registry.commit_version(
        TICKETS, make_files(2), parent=1, cause="trained", training=TrainingConfig(), events=seq
    )
    signal = FeedbackSignal.success()
    for prompt in ("first", None, "second"):
        if prompt is None:
            registry.journal.append_examples(TICKETS, [TrainingExample("not", "learned")])
        else:
            event = feedback_event(prompt, "answer", signal, VersionRef(TICKETS, 2))
            registry.journal.append(TICKETS, event)
    feedback = AppliedFeedback(0, 4, (Lesson(2, "x"), Lesson(4, "y")))
    registry.commit_version(
        TICKETS, make_files(3), parent=2, cause="feedback", events=4, applied=feedback
    )
    refs = (VersionRef(TICKETS, 3), VersionRef(MOODS, 1))
    merged = MergedFrom(refs, MergeRecipe())
    registry.create_adapter(BOTH, AdapterConfig(), base, make_files("both"), "merged", merged)
    return registry


def test_ancestors_lead_through_merges_parents_first(family: Registry) -> None:
    line = list_ancestors(family, VersionRef(BOTH))
    assert {str(v.ref) for v in line} == {"both@1", "moods@1", "tickets@1", "tickets@2", "tickets@3"}
    for i, version in enumerate(line):
        assert all(p in {v.ref for v in line[:i]} for p in version.parents)


def test_a_deleted_parent_is_left_out(family: Registry) -> None:
    family.delete_adapter(TICKETS)
    assert [str(v.ref) for v in list_ancestors(family, VersionRef(BOTH))] == ["moods@1", "both@1"]


def test_a_version_learned_its_own_events_only(family: Registry) -> None:
    numbers = {
        v.number: [e.seq for e in read_learned_events(family, v)] for v in family.list_versions(TICKETS)
    }
    assert numbers == {1: [], 2: [1], 3: [2, 4]}


def test_events_between_are_those_of_one_line_only(family: Registry) -> None:
    one, three = (list_ancestors(family, VersionRef(TICKETS, n)) for n in (1, 3))
    assert list_new_events(three, one) == (1, 2, 4)
    assert list_new_events(one, three) == ()


def test_a_row_says_what_it_was_made_on_and_with(family: Registry, base: BaseModel) -> None:
    for version in family.list_versions(TICKETS):
        assert version.origin is not None
        assert (version.origin.base, version.origin.config) == (base.fingerprint, AdapterConfig())
        assert {"python", "ouroboros-learning", "torch"} <= dict(version.origin.software).keys()
