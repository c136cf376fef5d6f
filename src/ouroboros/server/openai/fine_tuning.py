"""/v1/fine_tuning/jobs: supervised and preference fine-tuning of adapters."""

import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from ouroboros.domain.errors import Conflict
from ouroboros.domain.names import AdapterId
from ouroboros.domain.result import Ok
from ouroboros.registry.threads import in_thread
from ouroboros.server.dependencies import ReadCaller, ServiceDep, TrainCaller
from ouroboros.server.errors import RequestError, unsupported_parameter
from ouroboros.server.idempotency import claim_id
from ouroboros.server.jobs import FINAL, JobRunner
from ouroboros.server.keys import Caller
from ouroboros.server.openai.files import find_file
from ouroboros.server.openai.parameters import check_metadata
from ouroboros.server.records import list_body, new_id, page
from ouroboros.server.service import Service

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["OpenAI"])


class Hyperparameters(BaseModel):
    """Each a number, or "auto"."""

    model_config = ConfigDict(extra="forbid")
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] | None = None
    n_epochs: Literal["auto"] | Annotated[int, Field(ge=1, le=10_000)] | None = None
    learning_rate_multiplier: Literal["auto"] | Annotated[float, Field(gt=0, le=100)] | None = None
    beta: Literal["auto"] | float | None = None

    def numbers(self) -> dict[str, float]:
        """Those that were given as numbers."""
        return {k: v for k, v in self.model_dump().items() if v not in (None, "auto")}


class MethodOptions(BaseModel):
    """A method's hyperparameters."""

    model_config = ConfigDict(extra="forbid")
    hyperparameters: Hyperparameters | None = None


class Method(BaseModel):
    """How to train: `supervised` on outputs, or `dpo` on pairs of outputs."""

    model_config = ConfigDict(extra="forbid")
    type: str
    supervised: MethodOptions | None = None
    dpo: MethodOptions | None = None
    reinforcement: dict[str, Any] | None = None


class JobParameters(BaseModel):
    """The body of POST /v1/fine_tuning/jobs."""

    model_config = ConfigDict(extra="forbid")
    model: str = Field(min_length=1, max_length=200, examples=["starter"])
    training_file: str = Field(examples=["file-0123"])
    validation_file: str | None = None
    suffix: str | None = Field(None, min_length=1, max_length=64, examples=["tickets"])
    seed: int | None = Field(None, ge=0, lt=2**63)
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    integrations: list[dict[str, Any]] | None = None
    metadata: dict[str, str] | None = None

    def read_method(self) -> tuple[str, dict[str, float]]:
        """The method, and the hyperparameters that are numbers; raises for what is not supported."""
        kind = self.method.type if self.method else "supervised"
        if kind not in ("supervised", "dpo"):
            raise unsupported_parameter("method.type", "The methods are supervised and dpo.")
        if self.integrations:
            raise unsupported_parameter("integrations", "This server reports to no other service.")
        options = (self.method.dpo if kind == "dpo" else self.method.supervised) if self.method else None
        chosen = (options.hyperparameters if options else None) or self.hyperparameters
        numbers = chosen.numbers() if chosen else {}
        where = f"method.{kind}.hyperparameters"
        if kind == "dpo" and numbers:
            raise unsupported_parameter(
                f"{where}.{next(iter(numbers))}",
                "Pairs are learned as feedback, in as few steps as it takes: leave this at auto.",
            )
        if "beta" in numbers:
            raise unsupported_parameter(f"{where}.beta", "beta is for dpo.")
        return kind, numbers


@router.post("")
async def create_job(
    body: JobParameters,
    request: Request,
    service: ServiceDep,
    caller: TrainCaller,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> dict[str, Any]:
    """Train a new adapter on the base model, or the next version of an adapter that `model` names.

    The new adapter is called by `suffix`. Sending the same request again within a minute, or with the
    same `Idempotency-Key`, gives the same job.
    """
    # 1. Refuse what cannot become a job.
    service.require_open()
    kind, numbers = body.read_method()
    metadata = check_metadata(body.metadata)
    for name in ("training_file", "validation_file"):
        if file := getattr(body, name):
            await _require_file(service, file, caller, name)
    # 2. Find out whether this request came before.
    id = await in_thread(
        claim_id,
        service.records,
        caller.tenant,
        request.url.path,
        idempotency_key,
        body.model_dump_json(),
        new_id("ftjob"),
    )
    if (record := await in_thread(service.records.jobs.find, id)) is not None:
        return describe_job(record, get_runner(request))
    adapter, is_new = await _choose_adapter(service, body, caller, id)
    if not is_new and "learning_rate_multiplier" in numbers:
        raise unsupported_parameter(
            "method.supervised.hyperparameters.learning_rate_multiplier",
            "An adapter keeps the learning rate that it was created with.",
        )
    # 3. Write the job down, and only then run it.
    record = {
        "id": id,
        "tenant": caller.tenant,
        "created_at": int(time.time()),
        "model": body.model,
        "adapter": adapter,
        "new_adapter": is_new,
        "training_file": body.training_file,
        "validation_file": body.validation_file,
        "method": {"type": kind},
        "requested": numbers,
        "hyperparameters": {},
        "seed": body.seed or 0,
        "metadata": metadata or None,
        "status": "validating_files",
        "paused": False,
        "cancelling": False,
        "core_job": None,
        "fine_tuned_model": None,
        "finished_at": None,
        "error": None,
        "trained_tokens": None,
        "result_files": [],
        "checkpoints": [],
    }
    try:
        await in_thread(service.records.jobs.create, id, record)
    except Conflict:
        record = await in_thread(service.records.jobs.get, id, caller.tenant)
    await in_thread(service.records.audit, caller.tenant, caller.key, "job.create", id)
    get_runner(request).start(id)
    return describe_job(record, get_runner(request))


@router.get("")
async def list_jobs(
    request: Request,
    service: ServiceDep,
    caller: ReadCaller,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> dict[str, Any]:
    """Jobs, the newest first; `metadata[key]=value` finds those with that pair."""
    wanted = {
        name[9:-1]: value
        for name, value in request.query_params.items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    records = await in_thread(service.records.jobs.all, caller.tenant)
    jobs = [
        describe_job(record, get_runner(request))
        for record in reversed(records)
        if wanted.items() <= (record["metadata"] or {}).items()
    ]
    return list_body(*page(jobs, after, limit))


@router.get("/{id}")
async def get_job(id: str, request: Request, service: ServiceDep, caller: ReadCaller) -> dict[str, Any]:
    """A job, also long after it is done."""
    return describe_job(await _find(service, id, caller), get_runner(request))


@router.get("/{id}/events")
async def list_job_events(
    id: str,
    service: ServiceDep,
    caller: ReadCaller,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> dict[str, Any]:
    """What happened to a job, the newest first."""
    await _find(service, id, caller)
    events = [
        {**event, "object": "fine_tuning.job.event"}
        for event in reversed(await in_thread(service.records.events, id))
    ]
    return list_body(*page(events, after, limit))


@router.get("/{id}/checkpoints")
async def list_job_checkpoints(
    id: str,
    service: ServiceDep,
    caller: ReadCaller,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> dict[str, Any]:
    """The versions that a job has made. A refused one is not served, but can be asked by its name."""
    record = await _find(service, id, caller)
    return list_body(*page(record["checkpoints"], after, limit))


@router.post("/{id}/cancel")
async def cancel_job(
    id: str, request: Request, service: ServiceDep, caller: TrainCaller
) -> dict[str, Any]:
    """Stop a job for good; its adapter stays as it was."""
    await _require_open_job(service, id, caller)
    record = await get_runner(request).cancel(id)
    await in_thread(service.records.audit, caller.tenant, caller.key, "job.cancel", id)
    return describe_job(record, get_runner(request))


@router.post("/{id}/pause")
async def pause_job(
    id: str, request: Request, service: ServiceDep, caller: TrainCaller
) -> dict[str, Any]:
    """Stop a job at its last checkpoint. Its status is `queued`, and an event says that it is paused."""
    await _require_open_job(service, id, caller)
    return describe_job(await get_runner(request).pause(id), get_runner(request))


@router.post("/{id}/resume")
async def resume_job(
    id: str, request: Request, service: ServiceDep, caller: TrainCaller
) -> dict[str, Any]:
    """Go on with a paused job. It comes to the version that it would have come to without the pause."""
    service.require_open()
    record = await _require_open_job(service, id, caller)
    if not record["paused"]:
        raise RequestError(400, "The job is not paused.", code="invalid_state")
    return describe_job(await get_runner(request).resume(id), get_runner(request))


def get_runner(request: Request) -> JobRunner:
    """Returns the runner of the fine-tuning jobs."""
    return request.app.state.runner


def describe_job(record: Mapping[str, Any], runner: JobRunner) -> dict[str, Any]:
    """A job as OpenAI's clients read it."""
    names = ("n_epochs", "batch_size", "learning_rate_multiplier")
    # What was chosen for "auto" replaces it once the job has begun.
    shown = {n: record["hyperparameters"].get(n, record["requested"].get(n, "auto")) for n in names}
    kind = record["method"]["type"]
    progress = runner.progress.get(record["id"])
    return {
        "id": record["id"],
        "object": "fine_tuning.job",
        "created_at": record["created_at"],
        "model": record["model"],
        "fine_tuned_model": record["fine_tuned_model"],
        "finished_at": record["finished_at"],
        "status": record["status"],
        "error": record["error"],
        "training_file": record["training_file"],
        "validation_file": record["validation_file"],
        "hyperparameters": shown,
        "method": {"type": kind, kind: {"hyperparameters": shown}},
        "seed": record["seed"],
        "metadata": record["metadata"],
        "organization_id": record["tenant"] or "local",
        "result_files": record["result_files"],
        "trained_tokens": record["trained_tokens"],
        "estimated_finish": int(time.time() + progress.seconds_left) if progress else None,
        "integrations": [],
    }


async def _choose_adapter(
    service: Service, body: JobParameters, caller: Caller, id: str
) -> tuple[str, bool]:
    """The adapter that a job trains, and whether it is new."""
    base = await service.base()
    if body.model != base.name:
        ref = await service.find_version(body.model, caller)
        if body.suffix is not None:
            raise RequestError(
                400,
                f"suffix names a new adapter on {base.name}; this trains {ref.adapter} further.",
                code="invalid_value",
                param="suffix",
            )
        return ref.adapter.name, False
    name = body.suffix or f"ft-{id[-12:]}"
    AdapterId(name).check()
    caller.require_sight(name)
    if isinstance(await service.engine.get_adapter(name), Ok) or name == base.name:
        raise RequestError(
            409,
            f"There is an adapter {name!r} already. To train it further, set model to {name!r}.",
            code="already_exists",
            param="suffix",
        )
    return name, True


async def _require_file(service: Service, file: str, caller: Caller, param: str) -> None:
    record = await in_thread(find_file, service.records, file, caller.tenant)
    if record["purpose"] != "fine-tune":
        raise RequestError(
            400,
            f"The file's purpose is {record['purpose']}, not fine-tune.",
            code="invalid_value",
            param=param,
        )


async def _find(service: Service, id: str, caller: Caller) -> Mapping[str, Any]:
    return await in_thread(service.records.jobs.get, id, caller.tenant)


async def _require_open_job(service: Service, id: str, caller: Caller) -> Mapping[str, Any]:
    record = await _find(service, id, caller)
    if record["status"] in FINAL:
        raise RequestError(400, f"The job has {record['status']} already.", code="invalid_state")
    return record
