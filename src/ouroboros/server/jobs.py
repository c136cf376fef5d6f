"""`JobRunner`: fine-tuning jobs from their records to versions, through crashes and restarts.

A job's record is durable before it is acknowledged. Supervised jobs run as trainings of the engine,
which keep their own checkpoints; preference jobs go into the adapter's journal, pair by pair. Whatever
stops the program, the next start goes on with the jobs whose records are not final.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import (
    AlreadyExists,
    Cancelled,
    InvalidInput,
    NotFound,
    OuroborosError,
    Refused,
)
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Version
from ouroboros.domain.result import Err, Ok
from ouroboros.domain.training import TrainingProgress
from ouroboros.learning.gate.report import summarize_verdict
from ouroboros.registry.threads import in_thread
from ouroboros.server.errors import logger
from ouroboros.server.openai.files import read_preference_file, read_training_file, store_file
from ouroboros.server.service import Service

FINAL = ("succeeded", "failed", "cancelled")
EVENT_SECONDS = 0.5
"""Seconds between two metrics events of a job."""

Record = Mapping[str, Any]


class JobRunner:
    """Runs jobs as tasks of the event loop. The engine decides which of them train together."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._records = service.records
        self._engine = service.engine
        self._running: dict[str, tuple[asyncio.Task[None], CancellationToken]] = {}
        self.progress: dict[str, TrainingProgress] = {}

    def start(self, id: str) -> None:
        """Run a job, unless it is running."""
        if id in self._running:
            return
        token = CancellationToken()
        task = asyncio.ensure_future(self._run(id, token))
        self._running[id] = task, token
        task.add_done_callback(lambda _: self._running.pop(id, None))

    async def resume_all(self) -> None:
        """Go on with every job that an earlier run of the program left unfinished."""
        for record in await in_thread(self._records.jobs.all):
            if record["status"] not in FINAL and not record["paused"]:
                self.start(record["id"])

    async def stop(self) -> None:
        """Stop all jobs at their last checkpoint; the next start goes on with them."""
        for id, (_, token) in list(self._running.items()):
            await self._pause_training(id)
            token.cancel()
        await self.wait()

    async def wait(self) -> None:
        """Wait until no job runs."""
        if tasks := [task for task, _ in self._running.values()]:
            await asyncio.wait(tasks)

    async def cancel(self, id: str) -> Record:
        """Stop a job for good. One that is already committing its version succeeds."""
        record = await self._change(id, cancelling=True)
        if id in self._running:
            task, token = self._running[id]
            token.cancel()
            await asyncio.wait({task})
        elif record["status"] not in FINAL:
            if record["core_job"]:
                await self._engine.cancel_job(record["core_job"])
            await self._finish(id, "cancelled", "The job was cancelled.")
        return await in_thread(self._records.jobs.change, id, lambda r: r)

    async def pause(self, id: str) -> Record:
        """Stop a job at its last checkpoint. OpenAI knows no paused status: it is queued meanwhile."""
        await self._change(id, paused=True)
        await self._pause_training(id)
        if id in self._running:
            task, token = self._running[id]
            token.cancel()
            await asyncio.wait({task})
        return await in_thread(self._records.jobs.change, id, lambda r: r)

    async def resume(self, id: str) -> Record:
        """Go on with a paused job."""
        record = await self._change(id, paused=False)
        await self._say(id, "The job was resumed.")
        self.start(id)
        return record

    async def _run(self, id: str, token: CancellationToken) -> None:
        """Take a job to its end, whatever that is; the record says so."""
        try:
            record = await in_thread(self._records.jobs.change, id, lambda r: r)
            if record["cancelling"]:
                raise Cancelled("The job was cancelled.")
            if record["method"]["type"] == "dpo":
                await self._run_preferences(record, token)
            else:
                await self._run_supervised(record, token)
        except Cancelled:
            await self._end_stopped(id)
        except OuroborosError as error:
            code = "invalid_training_file" if isinstance(error, InvalidInput) else error.code
            await self._fail(id, code, str(error), getattr(error, "param", None))
        except Exception as error:
            logger.exception("job failed", exc_info=error)
            await self._fail(id, "internal", "The server made an error. It is logged.")
        finally:
            self.progress.pop(id, None)

    async def _run_supervised(self, record: Record, token: CancellationToken) -> None:
        id, tenant = record["id"], record["tenant"]
        # 1. Read the files. Once the training is journalled they are not needed any more.
        validation: list[TrainingExample] = []
        if record["validation_file"]:
            validation = await in_thread(
                read_training_file, self._records, record["validation_file"], tenant
            )
        if record["core_job"] is None:
            await self._say(id, "Validating the training file.")
            examples = await in_thread(
                read_training_file, self._records, record["training_file"], tenant
            )
            token.raise_if_cancelled()
            # 2. Create the adapter, and journal examples and training: from here on nothing is lost.
            record = await self._submit(record, examples)
        # 3. Train. The version may be there already, if the program died right after.
        await self._change(id, status="running")
        await self._say(id, "The training has started.")
        version = await self._find_version(record)
        if version is None:
            version = await self._train(record, token)
        # 4. Write down what came of it.
        metrics = await self._validate(version, validation)
        await self._record_success(record, version, metrics)

    async def _submit(self, record: Record, examples: list[TrainingExample]) -> Record:
        """Open the engine's training for a job, after its adapter if that is new."""
        await self._create_adapter(record)
        changes = {
            name: record["requested"][key]
            for key, name in (("n_epochs", "epochs"), ("batch_size", "batch_size"))
            if isinstance(record["requested"].get(key), int)
        }
        config = TrainingConfig.auto(len(examples), seed=record["seed"], **changes)
        job = (await self._engine.submit_training(record["adapter"], examples, config)).unwrap()
        hyperparameters = {
            "n_epochs": config.epochs,
            "batch_size": config.batch_size,
            "learning_rate_multiplier": record["requested"].get("learning_rate_multiplier", 1.0),
        }
        await self._say(record["id"], f"{len(examples)} examples are queued for {record['adapter']}.")
        return await self._change(
            record["id"],
            core_job=job.id,
            status="queued",
            hyperparameters=hyperparameters,
        )

    async def _create_adapter(self, record: Record) -> None:
        """The job's adapter, unless it names one that exists. After a crash it may be there already."""
        if not record["new_adapter"]:
            return
        config = AdapterConfig.auto(await self._service.base())
        multiplier = record["requested"].get("learning_rate_multiplier")
        if isinstance(multiplier, int | float):
            config = replace(config, learning_rate=config.learning_rate * multiplier)
        created = await self._engine.create_adapter(record["adapter"], config, seed=record["seed"])
        if isinstance(created, Err):
            if not isinstance(created.error, AlreadyExists):
                raise created.error
            adapter = (await self._engine.get_adapter(record["adapter"])).unwrap()
            if adapter.head != 1 or adapter.created_at.timestamp() < record["created_at"]:
                raise created.error

    async def _train(self, record: Record, token: CancellationToken) -> Version:
        """Run the engine's training to its version. A refusal by the gate fails the job, in words."""
        last_event = 0.0

        def report(now: TrainingProgress) -> None:
            """Called by the backend after each step, on its own thread."""
            nonlocal last_event
            self.progress[record["id"]] = now
            if now.step == now.steps or time.monotonic() - last_event > EVENT_SECONDS:
                last_event = time.monotonic()
                self._records.add_event(
                    record["id"],
                    "info",
                    f"Step {now.step}/{now.steps}: training loss={now.loss:.3f}",
                    "metrics",
                    {"step": now.step, "total_steps": now.steps, "train_loss": now.loss},
                )

        # The engine's job has the journalled rows: it goes on from its checkpoint after a restart.
        match await self._engine.resume_job(record["core_job"], on_progress=report, cancel=token):
            case Ok(version):
                return version
            case Err(Refused() as refusal):
                version = await self._find_version(record)
                if version is not None:
                    await self._record_refusal(record, version, str(refusal))
                raise refusal
            case Err(error):
                raise error

    async def _find_version(self, record: Record) -> Version | None:
        """The version that a job's training has made, if it has."""
        event = int(record["core_job"].rpartition("#")[2])
        versions = (await self._engine.get_versions(record["adapter"])).unwrap()
        return next((v for v in versions if v.training and v.events == event), None)

    async def _run_preferences(self, record: Record, token: CancellationToken) -> None:
        """Journal each pair once, by its key, and let the adapter learn them as feedback."""
        id = record["id"]
        pairs = await in_thread(
            read_preference_file, self._records, record["training_file"], record["tenant"]
        )
        token.raise_if_cancelled()
        await self._create_adapter_once(record)
        await self._change(id, status="running")
        # 1. Every pair has a key of its own, so that a job that was interrupted gives none twice.
        tickets = []
        for number, pair in enumerate(pairs):
            submitted = await self._engine.record_feedback(
                pair.prompt, pair.answer or "", pair.signal, record["adapter"], key=f"{id}:{number}"
            )
            tickets.append(submitted.unwrap())
        # 2. One update learns them all: each version would be judged on its own otherwise.
        await self._say(id, f"{len(pairs)} pairs are being learned by {record['adapter']}.")
        (await self._engine.learn_pending(record["adapter"], cancel=token)).unwrap()
        outcomes = [(await self._engine.feedback_outcome(t)).unwrap() for t in tickets]
        lessons = [o.lesson for o in outcomes if o.lesson is not None]
        learned = sum(lesson.learned for lesson in lessons)
        await in_thread(
            self._records.add_event,
            id,
            "info",
            f"{learned} of {len(pairs)} pairs were learned.",
            "message",
            {"lessons": [lesson.words for lesson in lessons]},
        )
        # 3. A job without a new version would leave its client with a model that has learned nothing.
        if not learned:
            raise Refused("No pair was learned.", hint="The events of this job say why.")
        version = (await self._engine.get_version(VersionRef(AdapterId(record["adapter"])))).unwrap()
        await self._record_success(record, version, {})

    async def _create_adapter_once(self, record: Record) -> None:
        """As `_create_adapter`, for a job that has perhaps taught its adapter something already."""
        try:
            await self._create_adapter(record)
        except AlreadyExists:
            adapter = (await self._engine.get_adapter(record["adapter"])).unwrap()
            if adapter.created_at.timestamp() < record["created_at"]:
                raise

    async def _validate(self, version: Version, examples: list[TrainingExample]) -> dict[str, float]:
        if not examples:
            return {}
        evaluation = (await self._engine.evaluate_adapter(version.ref, examples)).unwrap()
        return {
            "full_valid_loss": -evaluation.mean_logprob,
            "full_valid_mean_token_accuracy": evaluation.accuracy,
        }

    async def _record_success(self, record: Record, version: Version, metrics: dict[str, float]) -> None:
        """The result file, the checkpoint and the final record, in this order."""
        id, report = record["id"], version.report
        events = await in_thread(self._records.events, id)
        rows = [e["data"] for e in events if e["type"] == "metrics"]
        lines = ["step,train_loss", *(f"{row['step']},{row['train_loss']}" for row in rows)]
        data = "\n".join(lines).encode() + b"\n"
        file = await in_thread(
            store_file, self._records, record["tenant"], "step_metrics.csv", "fine-tune-results", data
        )
        checkpoint = self._checkpoint(record, version, metrics)
        words = summarize_verdict(version.verdict) if version.verdict else "The version was not judged."
        await in_thread(
            self._records.add_event, id, "info", words, "message", {"version": str(version.ref)}
        )
        await self._finish(
            id,
            "succeeded",
            f"The job succeeded: {version.ref} is served.",
            fine_tuned_model=str(version.ref),
            trained_tokens=report.tokens if report else None,
            result_files=[file["id"]],
            checkpoints=[checkpoint],
        )

    async def _record_refusal(self, record: Record, version: Version, words: str) -> None:
        """The gate's verdict as an event, and the candidate as a checkpoint that can be asked."""
        verdict = summarize_verdict(version.verdict) if version.verdict else words
        data = {
            "version": str(version.ref),
            "verdict": verdict,
            "failed_checks": [c.name.value for c in version.verdict.failed_checks]
            if version.verdict
            else [],
        }
        await in_thread(self._records.add_event, record["id"], "warn", verdict, "message", data)
        await self._change(record["id"], checkpoints=[self._checkpoint(record, version, {})])

    def _checkpoint(self, record: Record, version: Version, metrics: dict[str, float]) -> dict[str, Any]:
        report = version.report
        step = report.steps if report else 0
        losses = {"train_loss": report.final_loss} if report else {}
        return {
            "id": f"ftckpt-{record['id'].removeprefix('ftjob-')}-{version.number}",
            "object": "fine_tuning.job.checkpoint",
            "created_at": int(version.created_at.timestamp()),
            "fine_tuned_model_checkpoint": str(version.ref),
            "fine_tuning_job_id": record["id"],
            "step_number": step,
            "metrics": {"step": step, **losses, **metrics},
        }

    async def _end_stopped(self, id: str) -> None:
        """A job stopped: for good, for a pause, or because the program ends."""
        record = await in_thread(self._records.jobs.change, id, lambda r: r)
        if record["cancelling"]:
            if record["core_job"]:
                await self._engine.cancel_job(record["core_job"])
            await self._finish(id, "cancelled", "The job was cancelled.")
        elif record["paused"]:
            await self._change(id, status="queued")
            await self._say(id, "The job is paused. POST its /resume to go on.")
        elif self._service.draining.is_set():
            await self._say(id, "The server stops. The job goes on when it starts again.")
        else:
            await self._finish(id, "cancelled", "The training was cancelled by another program.")

    async def _pause_training(self, id: str) -> None:
        """Let the engine keep the training of a job, and its checkpoint."""
        record = await in_thread(self._records.jobs.change, id, lambda r: r)
        if record["core_job"] is not None and record["status"] not in FINAL:
            with suppress(NotFound):
                (await self._engine.pause_job(record["core_job"])).unwrap()

    async def _fail(self, id: str, code: str, message: str, param: str | None = None) -> None:
        error = {"code": code, "message": message, "param": param}
        if code == "invalid_training_file":
            error["param"] = "training_file"
        await self._finish(id, "failed", message, "error", error=error)

    async def _finish(
        self, id: str, status: str, message: str, level: str = "info", **changes: Any
    ) -> None:
        await in_thread(self._records.add_event, id, level, message, "message", {})
        await self._change(id, status=status, finished_at=int(time.time()), **changes)

    async def _say(self, id: str, message: str) -> None:
        await in_thread(self._records.add_event, id, "info", message, "message", {})

    async def _change(self, id: str, **changes: Any) -> Record:
        return await in_thread(self._records.jobs.change, id, lambda r: {**r, **changes})
