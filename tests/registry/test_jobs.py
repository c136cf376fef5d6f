"""Jobs keep one checkpoint, and leave nothing when they are done."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ouroboros.domain.config import TrainingConfig
from ouroboros.domain.errors import NotFound
from ouroboros.domain.names import AdapterId
from ouroboros.domain.training import Job, JobState
from ouroboros.registry.fsck import collect_garbage
from ouroboros.registry.registry import Registry

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TICKETS = AdapterId("tickets")


def job(event: int, adapter: AdapterId = TICKETS) -> Job:
    return Job(adapter, event, TrainingConfig(), NOW)


def checkpoints(registry: Registry) -> list[str]:
    return list(registry.stores[1].list("checkpoints/"))


def test_only_the_last_checkpoint_is_kept(registry: Registry) -> None:
    one = registry.jobs.add(job(1))
    assert registry.jobs.load_checkpoint(one) == b""
    for step in (1, 2):
        registry.jobs.save_checkpoint(one.id, f"state {step}".encode(), step, 9)
    stored = registry.jobs.get(one.id)
    assert (stored.step, stored.steps, registry.jobs.load_checkpoint(stored)) == (2, 9, b"state 2")
    assert checkpoints(registry) == [stored.checkpoint]
    registry.jobs.remove(one.id)
    assert checkpoints(registry) == []
    with pytest.raises(NotFound):
        registry.jobs.get(one.id)
    registry.jobs.remove(one.id)


def test_jobs_are_listed_by_adapter_whatever_its_name(registry: Registry) -> None:
    odd = AdapterId("tickets#1")
    for one in (job(1), job(2), job(1, odd)):
        registry.jobs.add(one)
    assert [j.id for j in registry.jobs.read_all(TICKETS)] == ["tickets#1", "tickets#2"]
    assert [j.id for j in registry.jobs.read_all(odd)] == ["tickets#1#1"]
    assert len(registry.jobs.read_all()) == 3


def test_a_job_without_a_living_program_is_interrupted(registry: Registry) -> None:
    one = registry.jobs.add(job(1))
    registry.jobs.update(one.id, lambda j: replace(j, state=JobState.RUNNING))
    assert [j.state for j in registry.list_unfinished_jobs()] == [JobState.INTERRUPTED]
    assert registry.leases.acquire(TICKETS)
    assert [j.state for j in registry.list_unfinished_jobs()] == [JobState.RUNNING]


def test_a_checkpoint_that_nobody_refers_to_is_collected(registry: Registry) -> None:
    one = registry.jobs.add(job(1))
    registry.jobs.save_checkpoint(one.id, b"kept", 1, 9)
    registry.stores[1].put("checkpoints/" + "0" * 64, b"left by a program that died")
    collect_garbage(registry)
    assert checkpoints(registry) == [registry.jobs.get(one.id).checkpoint]
