"""The JSON that each view of the page shows: what can be had from one adapter or from all of them.

Whoever reads the page can read this: every route checks the caller's scope and what the key may see. The
texts of events are shown to the tenant that gave them, and those that came by the command line to the
tenant without a name.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import Annotated, Any

from fastapi import APIRouter, File, Query, Request, UploadFile
from fastapi.responses import Response

from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Prompt, to_messages
from ouroboros.domain.events import Event, ExamplesGiven, FeedbackGiven, Pinned
from ouroboros.domain.performance import UsageCounts
from ouroboros.domain.records import Adapter, Version
from ouroboros.domain.verdict import Check, CheckName
from ouroboros.learning.gate.report import summarize_verdict
from ouroboros.registry.threads import in_thread
from ouroboros.server.adapters import describe_adapter, describe_version
from ouroboros.server.dependencies import AdminCaller, ReadCaller, ServiceDep, TrainCaller
from ouroboros.server.jobs import FINAL
from ouroboros.server.keys import Caller
from ouroboros.server.openai.fine_tuning import describe_job, get_runner
from ouroboros.server.page.preview import preview_file
from ouroboros.server.records import list_body
from ouroboros.server.service import Service

router = APIRouter(prefix="/v1", tags=["Page"])

TREND_VERSIONS = 20
"""Versions whose accuracy the list of adapters shows."""

MAX_BYTES = 10 * 2**20
"""An adapter has at most this size; precision falls before it is exceeded."""


@router.get("/overview")
async def get_overview(
    request: Request,
    service: ServiceDep,
    caller: ReadCaller,
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """Adapters with what each knows, how that went, and what waits to be learned."""
    base = await service.base()
    adapters = (await service.engine.list_adapters(after=after)).unwrap()
    visible = [adapter for adapter in adapters if caller.sees(adapter.id.name)]
    rows = [await _summarize_adapter(service, adapter) for adapter in visible[:limit]]
    described = {"name": base.name, "parameters": base.parameters, "context": base.context}
    body = {**list_body(rows, len(visible) > limit), "base": described}
    return _respond_with_etag(request, body)


@router.get("/adapters/{name:path}/timeline")
async def get_timeline(name: str, request: Request, service: ServiceDep, caller: ReadCaller) -> Response:
    """Every version with its verdict and each check of it, and every rollback, the oldest first."""
    adapter = await _find_adapter(service, name, caller)
    performance = (await service.engine.track_adapter(adapter.id)).unwrap()
    moves = (await service.engine.get_moves(adapter.id)).unwrap()
    groups = await _name_groups(service, adapter, [v for v, _ in performance.versions])
    body = {
        "object": "adapter.timeline",
        "adapter": describe_adapter(adapter),
        "pending": len(await _read_pending(service, adapter)),
        "trend": performance.trend,
        "versions": [
            _describe_step(version, usage, adapter, groups) for version, usage in performance.versions
        ],
        "moves": [{**asdict(move), "at": int(move.at.timestamp())} for move in moves],
    }
    return _respond_with_etag(request, body)


@router.get("/adapters/{name:path}/probes")
async def list_probes(
    name: str,
    service: ServiceDep,
    caller: ReadCaller,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> dict[str, Any]:
    """What each new version is asked: the prompt, the right answer, and why it is asked."""
    adapter = await _find_adapter(service, name, caller)
    probes = (await service.engine.get_probes(adapter.id)).unwrap()
    owners = await in_thread(_find_owners, service, adapter.id.name)
    data = [
        {
            "id": f"{probe.ref.adapter}#{probe.ref.event}.{probe.ref.row}",
            "kind": probe.kind.value,
            "messages": _describe_prompt(probe.example.input),
            "output": probe.example.output,
        }
        for probe in probes
        if owners.get(probe.ref.event, "") == caller.tenant
    ]
    return list_body(data[:limit], len(data) > limit)


@router.get("/adapters/{name:path}/events")
async def list_events(
    name: str,
    request: Request,
    service: ServiceDep,
    caller: ReadCaller,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Response:
    """The adapter's journal: examples, judgements and pins, each with the versions that learned it."""
    adapter = await _find_adapter(service, name, caller)
    events = await _describe_journal(service, adapter, caller, after, limit + 1)
    return _respond_with_etag(request, list_body(events[:limit], len(events) > limit))


@router.get("/judgements")
async def list_judgements(
    request: Request,
    service: ServiceDep,
    caller: ReadCaller,
    adapter: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Response:
    """What people said of answers, the newest first, with what each judgement came to."""
    names = [adapter] if adapter else [a.id.name for a in await _list_visible(service, caller)]
    judgements: list[dict[str, Any]] = []
    for name in names:
        events = await _describe_journal(
            service, await _find_adapter(service, name, caller), caller, 0, None
        )
        judgements += [event for event in events if event["kind"] == "feedback"]
    judgements.sort(key=lambda event: event["at"], reverse=True)
    return _respond_with_etag(request, list_body(judgements[:limit], len(judgements) > limit))


@router.get("/activity")
async def get_activity(request: Request, service: ServiceDep, caller: ReadCaller) -> dict[str, Any]:
    """What the server does now, what waits and for what, and how it has been doing."""
    runner = get_runner(request)
    adapters = await _list_visible(service, caller)
    records = await in_thread(service.records.jobs.all, caller.tenant)
    jobs = []
    for record in records[-50:][::-1]:
        progress = runner.progress.get(record["id"])
        steps = {"step": progress.step, "steps": progress.steps} if progress else {}
        loss = {"loss": progress.loss, "note": progress.note} if progress else {}
        waiting = _say_why_waiting(record, runner.progress)
        job = {**describe_job(record, runner), "adapter": record["adapter"], "paused": record["paused"]}
        jobs.append({**job, **steps, **loss, "waiting_for": waiting})
    # Trainings of other programs on the same store wait in the same queues.
    server_jobs = {record["core_job"] for record in records}
    trainings = [
        {
            "id": job.id,
            "adapter": job.adapter.name,
            "state": job.state.value,
            "step": job.step,
            "steps": job.steps,
            "reason": job.reason,
            "created_at": int(job.created_at.timestamp()),
        }
        for job in (await service.engine.list_jobs()).unwrap()
        if caller.sees(job.adapter.name) and job.id not in server_jobs
    ]
    pending = [
        {"adapter": a.id.name, "judgements": count}
        for a in adapters
        if (count := len(await _read_pending(service, a)))
    ]
    return {
        "object": "activity",
        "answers": {"active": service.active, "limit": service.limits.requests},
        "draining": service.draining.is_set(),
        "jobs": jobs,
        "trainings": trainings,
        "pending": pending,
        "metrics": service.metrics.snapshot(),
    }


@router.get("/keys")
async def list_keys(service: ServiceDep, caller: AdminCaller) -> dict[str, Any]:
    """The keys of the caller's tenant, without the keys themselves."""
    names = ("id", "prefix", "name", "tenant", "scopes", "adapters", "created_at", "expires_at")
    records = await in_thread(service.records.keys.all, caller.tenant)
    return list_body([{name: record[name] for name in names} for record in records], False)


@router.post("/training/preview")
async def preview_training(
    service: ServiceDep,
    caller: TrainCaller,
    file: Annotated[UploadFile, File()],
    adapter: str | None = None,
) -> dict[str, Any]:
    """Read a file as a training would, line by line: examples, wrong lines, and what it would take.

    Nothing is stored. `adapter` is the adapter that would learn it; without one, a new adapter would.
    """
    base = await service.base()
    preview = await in_thread(preview_file, await file.read(), file.filename or "file")
    config, seconds_per_row = AdapterConfig.auto(base), None
    if adapter is not None:
        learner = await _find_adapter(service, adapter, caller)
        config = learner.config
        seconds_per_row = await _measure_speed(service, learner)
    training = TrainingConfig.auto(max(preview["examples"], 1))
    trained_rows = preview["examples"] - preview["held_out"]
    seconds = None
    if seconds_per_row is not None:
        seconds = seconds_per_row * trained_rows * training.epochs
    values = sum(config.rank * (layer.inputs + layer.outputs) for layer in base.linears)
    return {
        **preview,
        "object": "training.preview",
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "steps": training.count_steps(trained_rows, config.max_steps),
        "bytes": _predict_size(values),
        "seconds": seconds,
    }


def _predict_size(values: int) -> int:
    """The size of a new adapter on every linear layer, in the first precision that fits the limit."""
    return next((values * width for width in (4, 2) if values * width <= MAX_BYTES), values)


async def _measure_speed(service: Service, adapter: Adapter) -> float | None:
    """Seconds for one row of one epoch, as the last training of the adapter took; None before that."""
    versions = (await service.engine.get_versions(adapter.id)).unwrap()
    trained = [v for v in versions if v.report and v.training]
    if not trained:
        return None
    report, training = trained[-1].report, trained[-1].training
    assert report is not None and training is not None
    return report.seconds / max(report.rows * training.epochs, 1)


async def _list_visible(service: Service, caller: Caller) -> list[Adapter]:
    adapters = (await service.engine.list_adapters()).unwrap()
    return [adapter for adapter in adapters if caller.sees(adapter.id.name)]


async def _find_adapter(service: Service, name: str, caller: Caller) -> Adapter:
    ref = await service.find_version(name, caller)
    return (await service.engine.get_adapter(ref.adapter)).unwrap()


async def _read_pending(service: Service, adapter: Adapter) -> list[int]:
    """Judgements that wait to be learned."""
    entries = (await service.engine.read_journal(adapter.id, after=adapter.applied)).unwrap()
    return [entry.seq for entry in entries if isinstance(entry.event, FeedbackGiven)]


async def _summarize_adapter(service: Service, adapter: Adapter) -> dict[str, Any]:
    """One row of the list of adapters."""
    performance = (await service.engine.track_adapter(adapter.id)).unwrap()
    versions = [version for version, _ in performance.versions]
    served = {version.number: version for version in versions}[adapter.head]
    shares = [
        accuracy["right"] / accuracy["rows"]
        for version in versions
        if not version.refused and (accuracy := measure_accuracy(version))
    ]
    usage = performance.usage
    return {
        "id": adapter.id.name,
        "description": adapter.description,
        "head": adapter.head,
        "versions": len(versions),
        "refused": sum(version.refused for version in versions),
        "bytes": served.size,
        "accuracy": measure_accuracy(served),
        "trend": shares[-TREND_VERSIONS:],
        "changed_at": int(served.created_at.timestamp()),
        "created_at": int(adapter.created_at.timestamp()),
        "pending": len(await _read_pending(service, adapter)),
        "judged": {"good": usage.good, "bad": usage.bad, "trend": performance.trend},
    }


def measure_accuracy(version: Version) -> dict[str, Any] | None:
    """The probes that a version answered right before the gate, with Wilson's 95% interval.

    Pins, what was known before and what was held out of its own training are each counted once. None for
    a version that was asked nothing.
    """
    verdict = version.verdict
    counted = (CheckName.PINNED, CheckName.KNOWN, CheckName.ARRIVED)
    changes = [c.answers for c in verdict.checks if c.name in counted and c.answers] if verdict else []
    rows = sum(change.rows for change in changes)
    if not rows:
        return None
    right = round(sum(change.after * change.rows for change in changes))
    low, high = UsageCounts(right, rows - right).interval
    return {"right": right, "rows": rows, "low": low, "high": high}


def _describe_step(
    version: Version, usage: UsageCounts, adapter: Adapter, groups: Mapping[tuple[int, int], str]
) -> dict[str, Any]:
    """A version for the timeline: what it is, what the gate said, and what people said."""
    verdict = version.verdict
    report = version.report
    return {
        **describe_version(version, adapter.head),
        "kind": classify_version(version),
        "sentence": summarize_verdict(verdict) if verdict else None,
        "accuracy": measure_accuracy(version),
        "saved_by": verdict.saved_by.value if verdict and verdict.saved_by else None,
        "share": verdict.share if verdict else 1.0,
        "tolerance": verdict.tolerance if verdict else None,
        "judged_seconds": verdict.seconds if verdict else None,
        "checks": [_describe_check(check, groups) for check in verdict.checks] if verdict else [],
        "lessons": [asdict(lesson) for lesson in version.lessons],
        "training": asdict(report) if report else None,
        "good": usage.good,
        "bad": usage.bad,
        "replaces": version.replaces,
    }


def classify_version(version: Version) -> str:
    """How a version came to be, in one word for the page."""
    if version.merged is not None:
        return "merged"
    if version.update is not None:
        return "corrected"
    return "trained" if version.training is not None else version.cause


def _describe_check(check: Check, groups: Mapping[tuple[int, int], str]) -> dict[str, Any]:
    group = groups.get((check.like.event, check.like.row)) if check.like else None
    return {
        "name": check.name.value,
        "passed": check.passed,
        "value": _finite(check.value),
        "limit": _finite(check.limit),
        "answers": asdict(check.answers) if check.answers else None,
        "likelihood": asdict(check.likelihood) if check.likelihood else None,
        "lost": len(check.lost),
        "group": group,
    }


def _finite(value: float | None) -> float | None:
    """JSON has no word for what is not a finite number."""
    return value if value is not None and math.isfinite(value) else None


async def _name_groups(
    service: Service, adapter: Adapter, versions: Sequence[Version]
) -> dict[tuple[int, int], str]:
    """The answer that the probes of a group share, by the example that stands for it."""
    places = {
        (check.like.event, check.like.row)
        for version in versions
        if version.verdict
        for check in version.verdict.checks
        if check.name is CheckName.CLASS and check.like and not check.like.adapter
    }
    names: dict[tuple[int, int], str] = {}
    for event in {event for event, _ in places}:
        entries = (await service.engine.read_journal(adapter.id, after=event - 1, limit=1)).unwrap()
        for entry in entries:
            outputs = list(_iter_outputs(entry.event)) if entry.seq == event else []
            names |= {p: outputs[p[1]][:80] for p in places if p[0] == event and p[1] < len(outputs)}
    return names


def _iter_outputs(event: Event) -> Iterator[str]:
    match event:
        case ExamplesGiven() | Pinned():
            yield from (example.output for example in event.examples)
        case FeedbackGiven():
            yield event.signal.text or event.generation


async def _describe_journal(
    service: Service, adapter: Adapter, caller: Caller, after: int, limit: int | None
) -> list[dict[str, Any]]:
    """Events as JSON. Texts of other tenants are left out: their fields are null."""
    versions = (await service.engine.get_versions(adapter.id)).unwrap()
    owners = await in_thread(_find_owners, service, adapter.id.name)
    tickets = await in_thread(_find_tickets, service, adapter.id.name)
    learned_by: dict[int, list[int]] = {}
    lessons: dict[int, tuple[str, bool, int]] = {}
    for version in versions:
        for event in version.learned:
            learned_by.setdefault(event, []).append(version.number)
        for lesson in version.lessons:
            lessons[lesson.event] = (lesson.words, lesson.learned, version.number)
    described: list[dict[str, Any]] = []
    while limit is None or len(described) < limit:
        entries = (await service.engine.read_journal(adapter.id, after=after)).unwrap()
        if not entries:
            break
        after = entries[-1].seq
        for entry in entries:
            visible = owners.get(entry.seq, "") == caller.tenant
            body = _describe_event(entry.event, visible=visible)
            words, learned, version = lessons.get(entry.seq, (None, None, None))
            pending = words is None and entry.seq > adapter.applied and body["kind"] == "feedback"
            described.append(
                {
                    "id": f"{adapter.id}#{entry.seq}",
                    "adapter": adapter.id.name,
                    "event": entry.seq,
                    **body,
                    "ticket": tickets.get(entry.seq) if visible else None,
                    "lesson": words,
                    "learned": learned,
                    "pending": pending,
                    "version": version,
                    "versions": learned_by.get(entry.seq, []),
                }
            )
    return described if limit is None else described[:limit]


def _describe_event(event: Event, *, visible: bool) -> dict[str, Any]:
    # Every event has all keys, and the texts only where the caller may read them.
    body: dict[str, Any] = {
        "kind": event.kind,
        "at": int(event.at.timestamp()),
        "hidden": not visible,
        "rows": None,
        "examples": [],
        "prompt": None,
        "answer": None,
        "signal": None,
        "text": None,
        "score": None,
        "user": None,
        "answered": None,
    }
    match event:
        case ExamplesGiven() | Pinned():
            body["rows"] = len(event.examples)
            shown = event.examples[:5] if visible else ()
            body["examples"] = [
                {"messages": _describe_prompt(e.input), "output": e.output} for e in shown
            ]
        case FeedbackGiven():
            signal = event.signal
            body |= {"signal": signal.kind.value, "score": signal.score, "answered": event.answered}
            if visible:
                body |= {"prompt": _describe_prompt(event.prompt), "answer": event.generation}
                body |= {"text": signal.text, "user": event.user}
        case _:
            body["rows"] = len(event.prompts)
    return body


def _find_owners(service: Service, adapter: str) -> dict[int, str]:
    """The tenant that gave each event through the server, by the event's number."""
    owners = {t["event"]: t["tenant"] for t in service.records.tickets.all() if t["adapter"] == adapter}
    for job in service.records.jobs.all():
        if job["adapter"] == adapter and job["core_job"]:
            owners[int(job["core_job"].rpartition("#")[2])] = job["tenant"]
    return owners


def _find_tickets(service: Service, adapter: str) -> dict[int, str]:
    return {t["event"]: t["id"] for t in service.records.tickets.all() if t["adapter"] == adapter}


def _describe_prompt(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in to_messages(prompt)]


def _say_why_waiting(record: Mapping[str, Any], running: Mapping[str, Any]) -> str | None:
    """What an unfinished job waits for, in words; None for one that runs or has ended."""
    if record["status"] in FINAL or record["id"] in running:
        return None
    if record["paused"]:
        return "It is paused and waits for someone to resume it."
    if record["status"] == "validating_files":
        return "Its file is being read and checked."
    if record["status"] == "running":
        return "It is running: it is being prepared, or judged by the gate."
    return "It waits for the training before it, or for answers that come first."


def _respond_with_etag(request: Request, body: Mapping[str, Any]) -> Response:
    """A JSON body with its ETag; 304 without a body for a client that has it already."""
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    headers = {"etag": f'"{sha256(data).hexdigest()[:24]}"', "cache-control": "private, no-cache"}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type="application/json", headers=headers)
