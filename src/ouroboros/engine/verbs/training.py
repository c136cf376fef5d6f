"""Training on examples."""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from ouroboros.backend.base import NO_CHECKPOINTS, Checkpoints, TrainJob
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import TrainingConfig
from ouroboros.domain.data import Row, TrainingExample
from ouroboros.domain.errors import Cancelled, NotFound, OuroborosError, Refused
from ouroboros.domain.events import ExamplesGiven
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter, Version
from ouroboros.domain.training import Job, JobState, OnProgress
from ouroboros.domain.verdict import ExampleRef
from ouroboros.domain.weights import AdapterFiles
from ouroboros.engine.core import Core, check_examples, raise_if_cancelled, verb
from ouroboros.engine.gate import Candidate, JudgedCandidate, refusal_error
from ouroboros.engine.job_progress import JobProgress
from ouroboros.learning.gate.repair import retry_job
from ouroboros.learning.replay.class_weights import balance_classes
from ouroboros.learning.replay.probes import Probe, ProbeKind


@dataclass(frozen=True, slots=True)
class TrainingInputs:
    """The journal's `event`, its examples, and what they are to be taught to: the head of `adapter`."""

    adapter: Adapter
    start: AdapterFiles
    examples: tuple[TrainingExample, ...]
    event: int
    training: TrainingConfig


class TrainingVerbs(Core):
    @verb
    async def train_adapter(
        self,
        adapter_id: str | AdapterId,
        examples: Sequence[TrainingExample],
        config: TrainingConfig | None = None,
        *,
        on_progress: OnProgress | None = None,
        cancel: CancellationToken | None = None,
    ) -> Version:
        """Train the adapter's head on `examples`; the result is a new version, which becomes the head.

        It becomes so only if it has learned them and is no worse at what the adapter knew: a few of
        many examples are held out to measure that, now and at every later update, and some of what it
        knew is trained along. Otherwise it is kept unserved, and the error is `Refused`. The examples
        are journalled before training starts, and a long training keeps checkpoints: if the program
        dies, `resume_job` goes on with it. Without `config`, `TrainingConfig.auto` sets how long it
        goes on. `on_progress` is called after each optimizer step, from another thread.
        """
        ref = VersionRef.parse(adapter_id)
        check_examples(examples)
        training = config or TrainingConfig.auto(len(examples))
        training.check()
        async with self._entering[ref.adapter]:  # they are journalled, and wait, in the order they came
            await self._backend.check(tuple(map(Row.of, examples)))
            await self._adapter(ref.adapter)
            event = await self._registry.journal.examples(ref.adapter, examples)
            job = Job(ref.adapter, event, training, datetime.now(UTC))
            await self._registry.jobs.open(job)
        return await self._run(job, tuple(examples), on_progress, cancel)

    @verb
    async def list_jobs(self, adapter_id: str | AdapterId | None = None) -> list[Job]:
        """Trainings that are queued, running, interrupted or failed."""
        adapter = None if adapter_id is None else VersionRef.parse(adapter_id).adapter
        return await self._registry.unfinished(adapter)

    @verb
    async def resume_job(
        self,
        job_id: str,
        *,
        on_progress: OnProgress | None = None,
        cancel: CancellationToken | None = None,
    ) -> Version:
        """Go on with a training whose program died, or that failed; waits while it is running.

        From its last checkpoint it comes to the same version, to the last bit, as if it had never been
        interrupted. If the adapter has moved on since, it starts anew from the new head.
        """
        job = await self._registry.jobs.get(job_id)
        await self._adapter(job.adapter)
        found = await self._registry.journal.read(job.adapter, after=job.event - 1, limit=1)
        if not found or found[0].seq != job.event or not isinstance(found[0].event, ExamplesGiven):
            await self._registry.jobs.close(job.id)
            raise NotFound(f"The examples of {job.id} were erased.", hint="Train others.")
        return await self._run(job, found[0].event.examples, on_progress, cancel)

    @verb
    async def cancel_job(self, job_id: str) -> None:
        """Give a training up. One that is running, in any program, stops within a second or a step."""
        job = await self._registry.jobs.get(job_id)
        if job.state is JobState.RUNNING and await self._registry.leases.is_held(job.adapter):
            await self._registry.jobs.change(job.id, lambda j: replace(j, state=JobState.CANCELLING))
        else:
            await self._registry.jobs.close(job.id)

    async def _run(
        self,
        job: Job,
        examples: tuple[TrainingExample, ...],
        on_progress: OnProgress | None,
        cancel: CancellationToken | None,
    ) -> Version:
        """Wait for the adapter's turn and run a job; it is over but where it failed."""
        token = cancel or CancellationToken()
        try:
            async with self._writing[job.adapter]:
                raise_if_cancelled(token)
                version = await self._learned(job.id, examples, on_progress, token)
        except (Cancelled, asyncio.CancelledError, Refused):
            await self._registry.jobs.close(job.id)
            raise
        except OuroborosError as error:
            failed, reason = JobState.FAILED, str(error)
            with suppress(OuroborosError):
                await self._registry.jobs.change(
                    job.id, lambda j: replace(j, state=failed, reason=reason)
                )
            raise
        await self._registry.jobs.close(job.id)
        return version

    async def _learned(
        self,
        job_id: str,
        examples: tuple[TrainingExample, ...],
        on_progress: OnProgress | None,
        cancel: CancellationToken,
    ) -> Version:
        """The version that a job comes to, committed."""
        try:
            job = await self._registry.jobs.get(job_id)
        except NotFound:
            raise Cancelled("The training was given up while it waited for its turn.") from None
        adapter = await self._adapter(job.adapter)
        head = await self._registry.version(VersionRef(adapter.id))
        start = await self._registry.files(head)
        state = b""
        if job.parent == head.number:
            state = await self._registry.jobs.state(job)
        running = JobState.RUNNING
        await self._registry.jobs.change(
            job.id,
            lambda j: replace(j, state=running, parent=head.number, reason=""),
        )
        raise_if_cancelled(cancel)
        watch = JobProgress(self._registry.jobs.blocking, job.id, on_progress, cancel)
        teaching = TrainingInputs(adapter, start, examples, job.event, job.training)
        checkpoints = Checkpoints(state, self._checkpoint_seconds)
        judged = await self._trained(teaching, watch, cancel, checkpoints)
        raise_if_cancelled(cancel)
        version = await self._registry.commit(
            adapter.id,
            judged.outcome.files,
            parent=head.number,
            cause="trained",
            training=job.training,
            report=judged.outcome.report,
            events=job.event,
            verdict=judged.verdict,
        )
        if version.refused:
            raise refusal_error(version, head.number)
        await self._gate.record_promotion(adapter.id, judged.standing)
        return version

    async def _trained(
        self,
        lesson: TrainingInputs,
        on_progress: OnProgress | None = None,
        cancel: CancellationToken | None = None,
        checkpoints: Checkpoints = NO_CHECKPOINTS,
    ) -> JudgedCandidate:
        """Train, and put what came of it to the gate. Depends on the lesson and the journal alone."""
        adapter, examples = lesson.adapter, lesson.examples
        knowledge = await self._gate.knowledge(adapter)
        out = knowledge.split(examples)
        new = [Row.of(e) for i, e in enumerate(examples) if i not in out]
        rows, replay = balance_classes(new, knowledge.rows(), lesson.training.replay)
        job = TrainJob(lesson.start, adapter.config, lesson.training, rows, replay, anchors=None)
        first = replace(job, checkpoints=checkpoints)
        outcome = await self._backend.train(first, on_progress, cancel)
        fresh = _fresh(examples, out, lesson.event)
        return await self._gate.judge(
            adapter.id,
            Candidate(lesson.start, outcome, rows, knowledge.probes(), fresh),
            retry=lambda: self._backend.train(retry_job(job), on_progress, cancel),
            cancel=cancel,
        )


def _fresh(examples: Sequence[TrainingExample], out: Collection[int], event: int) -> list[Probe]:
    """What was held out of the examples, as the probes that it will be from now on."""
    return [Probe(ExampleRef(event, i), examples[i], ProbeKind.HELD_OUT) for i in sorted(out)]
