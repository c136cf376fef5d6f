"""Jobs keep one checkpoint, and leave nothing when they are done."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ouroboros.domain.config import TrainingConfig
from ouroboros.domain.errors import NotFound
from ouroboros.domain.names import AdapterId
from ouroboros.domain.training import Job, JobState
from ouroboros.registry.fsck import collect
from ouroboros.registry.registry import Registry

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TICKETS = AdapterId("tickets")


def job(event: int, adapter: AdapterId = TICKETS) -> Job:
    return Job(adapter, event, TrainingConfig(), NOW)


def checkpoints(registry: Registry) -> list[str]:
    return list(registry.stores[1].list("checkpoints/"))


def test_only_the_last_checkpoint_is_kept(registry: Registry) -> None:
    one = registry.jobs.open(job(1))
    assert registry.jobs.state(one) == b""
    for step in (1, 2):
        registry.jobs.save(one.id, f"state {step}".encode(), step, 9)
    found = registry.jobs.get(one.id)
    assert (found.step, found.steps, registry.jobs.state(found)) == (2, 9, b"state 2")
    assert checkpoints(registry) == [found.checkpoint]
    registry.jobs.close(one.id)
    assert checkpoints(registry) == []
    with pytest.raises(NotFound):
        registry.jobs.get(one.id)
    registry.jobs.close(one.id)


def test_jobs_are_listed_by_adapter_whatever_its_name(registry: Registry) -> None:
    odd = AdapterId("tickets#1")
    for one in (job(1), job(2), job(1, odd)):
        registry.jobs.open(one)
    assert [j.id for j in registry.jobs.all(TICKETS)] == ["tickets#1", "tickets#2"]
    assert [j.id for j in registry.jobs.all(odd)] == ["tickets#1#1"]
    assert len(registry.jobs.all()) == 3


def test_a_job_without_a_living_program_is_interrupted(registry: Registry) -> None:
    one = registry.jobs.open(job(1))
    registry.jobs.change(one.id, lambda j: replace(j, state=JobState.RUNNING))
    assert [j.state for j in registry.unfinished()] == [JobState.INTERRUPTED]
    assert registry.leases.take(TICKETS)
    assert [j.state for j in registry.unfinished()] == [JobState.RUNNING]


def test_a_checkpoint_that_nobody_refers_to_is_collected(registry: Registry) -> None:
    one = registry.jobs.open(job(1))
    registry.jobs.save(one.id, b"kept", 1, 9)
    registry.stores[1].put("checkpoints/" + "0" * 64, b"left by a program that died")
    collect(registry)
    assert checkpoints(registry) == [registry.jobs.get(one.id).checkpoint]
