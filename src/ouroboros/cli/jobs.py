"""`ouroboros jobs`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.progress import training_progress
from ouroboros.cli.store import open_engine, require_store
from ouroboros.cli.train import pausable, unwrap_paused
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.errors import InvalidInput
from ouroboros.domain.training import Job
from ouroboros.settings import Settings

if TYPE_CHECKING:
    from ouroboros.engine import AdapterLearningEngine

NAME = "jobs"
HELP = "list unfinished trainings, resume an interrupted one, or cancel one"
EXAMPLES = """\
  ouroboros jobs
  ouroboros jobs tickets
  ouroboros jobs --resume tickets#4    resume from its last checkpoint
  ouroboros jobs --cancel tickets#4    even if another program runs it"""

_HEADER = ("job", "state", "step", "since", "reason")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="list this adapter's only")
    parser.add_argument("--resume", metavar="JOB", help="resume this training")
    parser.add_argument("--cancel", metavar="JOB", help="cancel this training")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    if sum(map(bool, (options.name, options.resume, options.cancel))) > 1:
        raise InvalidInput("Give one of NAME, --resume and --cancel.", hint="See: ouroboros jobs --help")
    require_store(settings)
    async with open_engine(settings) as engine:
        if options.resume:
            return await resume(engine, options.resume, out)
        if options.cancel:
            (await engine.cancel_job(options.cancel)).unwrap()
            return out.result({"cancelled": options.cancel}, f"Cancelled {options.cancel}.")
        jobs = (await engine.list_jobs(options.name)).unwrap()
    table = out.table(_HEADER, [format_job(job) for job in jobs])
    return out.result(
        [job_json(job) for job in jobs], table if jobs else "There are no unfinished trainings."
    )


async def resume(engine: AdapterLearningEngine, job: str, out: Output) -> None:
    """Resumes a training and shows the progress."""
    token = CancellationToken()
    with pausable(token, out), training_progress(out) as on_progress:
        result = await engine.resume_job(job, on_progress=on_progress, cancel=token)
    version = await unwrap_paused(engine, job.rpartition("#")[0], result, token)
    out.result(describe.version_json(version), f"{version.ref} {describe.origin(version)}.")


def format_job(job: Job) -> tuple[str, ...]:
    """Formats a job as a row of the table."""
    step = f"{job.step}/{job.steps}" if job.steps else ""
    return job.id, job.state.value, step, describe.local_time(job.created_at), job.reason


def job_json(job: Job) -> dict[str, Any]:
    """Returns a job as JSON."""
    return {
        "job": job.id,
        "state": job.state.value,
        "step": job.step,
        "steps": job.steps,
        "created_at": job.created_at.isoformat(),
        "reason": job.reason,
    }
