"""Going back to a version and forward again."""

from collections.abc import Callable

import pytest

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import AdapterConfig, UpdateConfig
from ouroboros.domain.errors import Conflict, NotFound
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.weights import AdapterFiles
from ouroboros.registry.registry import Registry
from ouroboros.registry.version_draft import AppliedFeedback

TICKETS = AdapterId("tickets")
MakeFiles = Callable[[object], AdapterFiles]


@pytest.fixture
def tickets(registry: Registry, base: BaseModel, make_files: MakeFiles) -> AdapterId:
    """Three versions: created, then two that each learned two events."""
    registry.create_adapter(TICKETS, AdapterConfig(), base, make_files(1))
    for parent in (1, 2):
        for _ in range(2):
            registry.journal.append_examples(TICKETS, [])
        applied = AppliedFeedback(2 * (parent - 1), 2 * parent, update=UpdateConfig())
        registry.commit_version(
            TICKETS,
            make_files(parent + 1),
            parent=parent,
            cause="feedback",
            events=2 * parent,
            applied=applied,
        )
    return TICKETS


def test_the_head_moves_and_the_move_is_recorded_and_undone(
    registry: Registry, tickets: AdapterId, make_files: MakeFiles
) -> None:
    registry.rollback(VersionRef(tickets, 1))
    assert registry.load_files(registry.get_version(VersionRef(tickets))) == make_files(1)
    registry.rollback(VersionRef(tickets, 3))
    assert registry.get_adapter(tickets).head == 3
    assert [(m.before, m.after) for m in registry.list_head_moves(tickets)] == [(3, 1), (1, 3)]
    assert [v.number for v in registry.list_versions(tickets)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("to", "replay", "applied"), [(1, False, 4), (1, True, 0), (2, True, 2), (3, True, 4)]
)
def test_feedback_learned_since_stays_applied_unless_it_is_to_be_replayed(
    registry: Registry, tickets: AdapterId, to: int, replay: bool, applied: int
) -> None:
    registry.rollback(VersionRef(tickets, to), replay=replay)
    assert registry.get_adapter(tickets).applied == applied
    assert registry.journal.last_seq(tickets) == 4


def test_what_comes_next_has_the_restored_version_as_its_parent(
    registry: Registry, tickets: AdapterId, make_files: MakeFiles
) -> None:
    registry.rollback(VersionRef(tickets, 1))
    with pytest.raises(Conflict):
        registry.commit_version(tickets, make_files("late"), parent=3, cause="trained")
    version = registry.commit_version(tickets, make_files("next"), parent=1, cause="trained")
    assert [v.number for v in registry.list_lineage(version.ref)] == [version.number, 1]
    assert [v.number for v in registry.list_lineage(VersionRef(tickets, 3))] == [3, 2, 1]


def test_going_where_one_is_changes_and_records_nothing(registry: Registry, tickets: AdapterId) -> None:
    before = registry.get_adapter(tickets)
    assert registry.rollback(VersionRef(tickets, 3)) == before
    assert registry.list_head_moves(tickets) == []


def test_a_version_that_is_not_there_changes_nothing(registry: Registry, tickets: AdapterId) -> None:
    with pytest.raises(NotFound):
        registry.rollback(VersionRef(tickets, 9))
    assert (registry.get_adapter(tickets).head, registry.list_head_moves(tickets)) == (3, [])


def test_a_rollback_meets_a_commit_and_both_are_kept(
    registry: Registry, tickets: AdapterId, make_files: MakeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head moves between reading it and writing it: the rollback starts over, recorded once."""
    append = registry._metadata.append

    def append_after_other_writer(log: str, value: dict) -> int:
        monkeypatch.setattr(registry._metadata, "append", append)
        registry.commit_version(tickets, make_files("fast"), parent=3, cause="trained")
        return append(log, value)

    monkeypatch.setattr(registry._metadata, "append", append_after_other_writer)
    registry.rollback(VersionRef(tickets, 2))
    assert registry.get_adapter(tickets).head == 2
    assert [(m.before, m.after) for m in registry.list_head_moves(tickets)] == [(4, 2)]
