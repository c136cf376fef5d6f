"""Training on examples."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from ouroboros.backend.base import Checkpoints
from ouroboros.data.sources import Source
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import TrainingConfig
from ouroboros.domain.data import Row, TrainingExample
from ouroboros.domain.errors import Cancelled, NotFound, OuroborosError, Refused
from ouroboros.domain.events import ExamplesGiven
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Version
from ouroboros.domain.training import Job, JobState, OnProgress
from ouroboros.engine.checks import check_examples, load_examples, raise_if_cancelled, resolve_training
from ouroboros.engine.core import Core, verb
from ouroboros.engine.gate import refusal_error
from ouroboros.engine.job_progress import JobProgress
from ouroboros.engine.trainer import TrainingInputs
from ouroboros.registry.fencing import erasure_guard
from ouroboros.stores.metadata.base import Fenced


class TrainingVerbs(Core):
    """Train adapters from examples, and list, pause, resume and cancel such jobs."""

    @verb
    async def train_adapter(
        self,
        adapter_id: str | AdapterId,
        examples: Source,
        config: TrainingConfig | Mapping[str, Any] | None = None,
        *,
        on_progress: OnProgress | None = None,
        cancel: CancellationToken | None = None,
    ) -> Version:
        """Train the adapter's head on `examples`, and serve the new version if it passes the gate.

        It passes if it has learned them and is no worse at what the adapter knew. To measure that, a few
        of many examples are held out, now and at every later update, and some of what the adapter knew
        is replayed. A version that fails is stored but not served, and the error is `Refused`.

        The examples are journalled before training starts, and a long training keeps checkpoints: if the
        program dies, `resume_job` continues it. Without `config`, `TrainingConfig.auto` sets the length.
        A dict sets single fields of it. `examples` can also be a file, a folder, dicts with the columns
        of a known format, a Hugging Face `Dataset` or a data frame (docs/data.md). `on_progress` is
        called after each optimizer step, from another thread.
        """
        rows = await load_examples(examples)
        job = await self._open_job(VersionRef.parse(adapter_id).adapter, rows, config)
        return await self._run_job(job, tuple(rows), on_progress, cancel)

    @verb
    async def submit_training(
        self,
        adapter_id: str | AdapterId,
        examples: Source,
        config: TrainingConfig | Mapping[str, Any] | None = None,
    ) -> Job:
        """Journal `examples` and open a job to train on them, without running it: `resume_job` does.

        Once this returns, neither the examples nor the job can be lost.
        """
        rows = await load_examples(examples)
        return await self._open_job(VersionRef.parse(adapter_id).adapter, rows, config)

    @verb
    async def list_jobs(self, adapter_id: str | AdapterId | None = None) -> list[Job]:
        """Return the queued, running, interrupted and failed trainings of one adapter or all."""
        adapter = None if adapter_id is None else VersionRef.parse(adapter_id).adapter
        return await self._registry.list_unfinished_jobs(adapter)

    @verb
    async def resume_job(
        self,
        job_id: str,
        *,
        on_progress: OnProgress | None = None,
        cancel: CancellationToken | None = None,
    ) -> Version:
        """Continue a training that was paused, interrupted or failed; wait for one that is running.

        From its last checkpoint it reaches the same version, bit for bit, as without the interruption.
        If the adapter's head has changed since, it starts again from the new head.
        """
        job = await self._registry.jobs.get(job_id)
        await self._loader.get_adapter(job.adapter)
        if job.state is JobState.PAUSED:
            queued = JobState.QUEUED
            await self._registry.jobs.update(job.id, lambda j: replace(j, state=queued))
        entries = await self._registry.journal.read(job.adapter, after=job.event - 1, limit=1)
        event = entries[0].event if entries and entries[0].seq == job.event else None
        if not isinstance(event, ExamplesGiven):
            await self._registry.jobs.remove(job.id)
            raise NotFound(f"The examples of {job.id} were erased.", hint="Train others.")
        return await self._run_job(job, event.examples, on_progress, cancel)

    @verb
    async def cancel_job(self, job_id: str) -> None:
        """Cancel a training. One that is running, in any program, stops within a second or a step."""
        job = await self._registry.jobs.get(job_id)
        if job.state is JobState.RUNNING and await self._registry.leases.is_held(job.adapter):
            await self._registry.jobs.update(job.id, lambda j: replace(j, state=JobState.CANCELLING))
        else:
            await self._registry.jobs.remove(job.id)

    @verb
    async def pause_job(self, job_id: str) -> Job:
        """Stop a training within a second or a step; `resume_job` continues it from its last checkpoint.

        The result is the same version as without the pause.
        """
        paused = JobState.PAUSED
        return await self._registry.jobs.update(job_id, lambda j: replace(j, state=paused))

    async def _open_job(
        self,
        adapter: AdapterId,
        examples: Sequence[TrainingExample],
        config: TrainingConfig | Mapping[str, Any] | None,
    ) -> Job:
        """Check and journal examples, and write down the job that trains on them."""
        check_examples(examples)
        training = resolve_training(config, len(examples))
        # Examples are journalled, and wait for their training, in the order of the calls.
        async with self._submission_locks[adapter]:
            guard = erasure_guard(await self._loader.get_adapter(adapter))
            await self._backend.check_rows(tuple(map(Row.from_example, examples)))
            event = await self._registry.journal.append_examples(adapter, examples, guard)
            job = Job(adapter, event, training, datetime.now(UTC))
            return await self._registry.jobs.add(job, guard)

    async def _run_job(
        self,
        job: Job,
        examples: tuple[TrainingExample, ...],
        on_progress: OnProgress | None,
        cancel: CancellationToken | None,
    ) -> Version:
        """Wait for the adapter's lock and run a job. The job is removed unless it failed.

        If another program took the adapter over, or data was erased, it begins anew under a new lease,
        unless its own examples were erased.
        """
        token = cancel or CancellationToken()
        try:
            while True:
                with suppress(Fenced):
                    async with self._locks[job.adapter]:
                        raise_if_cancelled(token)
                        version = await self._train_new_head(job.id, examples, on_progress, token)
                    break
        except (Cancelled, asyncio.CancelledError, Refused):
            if not await self._is_paused(job.id):
                await self._registry.jobs.remove(job.id)
            raise
        except OuroborosError as error:
            failed, reason = JobState.FAILED, str(error)
            with suppress(OuroborosError):
                await self._registry.jobs.update(
                    job.id, lambda j: replace(j, state=failed, reason=reason)
                )
            raise
        await self._registry.jobs.remove(job.id)
        return version

    async def _is_paused(self, job_id: str) -> bool:
        try:
            return (await self._registry.jobs.get(job_id)).state is JobState.PAUSED
        except NotFound:
            return False

    async def _train_new_head(
        self,
        job_id: str,
        examples: tuple[TrainingExample, ...],
        on_progress: OnProgress | None,
        cancel: CancellationToken,
    ) -> Version:
        """Train a job's examples on the head, and commit the version that comes out."""
        # 1. Read the job again: it may have been cancelled or resumed while it waited for its turn.
        try:
            job = await self._registry.jobs.get(job_id)
        except NotFound:
            raise Cancelled("The training was cancelled while it waited for its turn.") from None
        if job.state is JobState.PAUSED:
            raise Cancelled("The training was paused while it waited for its turn.")
        adapter = await self._loader.get_adapter(job.adapter)
        head = await self._registry.get_version(VersionRef(adapter.id))
        start = await self._registry.load_files(head)
        # 2. A checkpoint only fits the head that the job began on; on another head it begins anew.
        state = b""
        if job.parent == head.number:
            state = await self._registry.jobs.load_checkpoint(job)
        await self._registry.jobs.update(
            job.id,
            lambda j: replace(j, state=JobState.RUNNING, parent=head.number, reason=""),
        )
        raise_if_cancelled(cancel)
        # 3. Train, judge, and commit.
        progress = JobProgress(self._registry.jobs.blocking, job.id, on_progress, cancel)
        inputs = TrainingInputs(adapter, start, examples, job.event, job.training)
        checkpoints = Checkpoints(state, self._checkpoint_seconds, lambda: cancel.pausing)
        judged = await self._trainer.train_candidate(inputs, progress, cancel, checkpoints)
        raise_if_cancelled(cancel)
        version = await self._gate.commit_judged(
            adapter.id,
            judged,
            parent=head.number,
            cause="trained",
            training=job.training,
            events=job.event,
        )
        if version.refused:
            raise refusal_error(version, head.number)
        return version
