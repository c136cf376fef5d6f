"""/v1/adapters: what OpenAI's API has no words for; and vLLM's load and unload as aliases by name."""

import io
import zipfile
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.merging import MergeRecipe, MergeStrategy
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter, Version
from ouroboros.domain.results import Erasure
from ouroboros.domain.weights import ExportForm
from ouroboros.learning.gate.report import summarize_verdict
from ouroboros.learning.replay.probes import ProbeKind
from ouroboros.registry.codec import encode
from ouroboros.registry.threads import in_thread
from ouroboros.server.dependencies import (
    AdminCaller,
    FeedbackCaller,
    GenerateCaller,
    ReadCaller,
    ServiceDep,
    TrainCaller,
)
from ouroboros.server.errors import RequestError
from ouroboros.server.keys import Caller
from ouroboros.server.openai.parameters import ChatMessage, read_turns
from ouroboros.server.records import list_body
from ouroboros.server.service import Service

router = APIRouter(prefix="/v1/adapters", tags=["Adapters"])
vllm_router = APIRouter(prefix="/v1", tags=["vLLM"])


class Strict(BaseModel):
    """A body without unknown fields."""

    model_config = ConfigDict(extra="forbid")


class NewAdapter(Strict):
    """The body of POST /v1/adapters."""

    name: str = Field(examples=["tickets"])
    description: str = ""
    rank: int | None = None
    learning_rate: float | None = None
    target_modules: str | None = None
    seed: int = Field(0, ge=0, lt=2**63)


class Example(Strict):
    """A conversation and the output that is right for it."""

    messages: list[ChatMessage] = Field(min_length=1)
    output: str

    def read(self) -> TrainingExample:
        return TrainingExample(read_turns(self.messages), self.output)


class Examples(Strict):
    """Examples to be asked."""

    examples: list[Example] = Field(min_length=1, max_length=10_000)

    def read(self) -> list[TrainingExample]:
        return [example.read() for example in self.examples]


class Prompts(Strict):
    """Conversations whose pins no longer count."""

    prompts: list[list[ChatMessage]] = Field(min_length=1)


class RollbackBody(Strict):
    """Which version is to be served; with `replay`, feedback since then is learned anew."""

    version: int = Field(ge=1)
    replay: bool = False


class DiffBody(Strict):
    """Two versions ("tickets@2"), and examples to ask both."""

    before: str
    after: str
    examples: list[Example] = []


class MergeBody(Strict):
    """Adapters or versions to merge into a new adapter."""

    adapters: list[str] = Field(min_length=1, max_length=64)
    name: str | None = None
    strategy: MergeStrategy = MergeStrategy.TASK_ARITHMETIC
    weights: list[float] | None = None
    rank: int | None = None
    anyway: bool = False


class ForgetBody(Strict):
    """Events of the adapter's journal."""

    events: list[int] = Field(min_length=1)


class FindBody(Strict):
    """A prompt, or words about a task."""

    text: str
    k: int = Field(5, ge=1, le=1000)


class LoraBody(BaseModel):
    """vLLM's body. Its path is not read: an adapter is what the store has under that name."""

    model_config = ConfigDict(extra="allow")
    lora_name: str


@router.post("", status_code=201)
async def create_adapter(body: NewAdapter, service: ServiceDep, caller: TrainCaller) -> dict[str, Any]:
    """A new adapter, whose version 1 answers as the base does."""
    service.require_open()
    base = await service.base()
    AdapterId(body.name).check()
    caller.require_sight(body.name)
    if body.name == base.name:
        raise RequestError(409, f"{body.name!r} is the base model's name.", code="already_exists")
    changes = {
        name: value
        for name in ("rank", "learning_rate", "target_modules")
        if (value := getattr(body, name)) is not None
    }
    config = AdapterConfig.auto(base, **changes) if changes else None
    adapter = (
        await service.engine.create_adapter(
            body.name, config, description=body.description, seed=body.seed
        )
    ).unwrap()
    await _audit(service, caller, "adapter.create", body.name)
    return describe_adapter(adapter)


@router.get("")
async def list_adapters(
    service: ServiceDep,
    caller: ReadCaller,
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Adapters by name; `after` is the last name of the page before."""
    adapters = (await service.engine.list_adapters(after=after)).unwrap()
    visible = [describe_adapter(a) for a in adapters if caller.sees(a.id.name)]
    return list_body(visible[:limit], len(visible) > limit)


@router.post("/find")
async def find_adapters(body: FindBody, service: ServiceDep, caller: ReadCaller) -> dict[str, Any]:
    """The adapters nearest to a prompt, and whether each is near enough to answer it."""
    matches = (await service.engine.find_adapters(body.text, body.k)).unwrap()
    data = [
        {"id": m.adapter.name, "similarity": m.similarity, "threshold": m.needed, "sure": m.sure}
        for m in matches
        if caller.sees(m.adapter.name)
    ]
    return list_body(data, False)


@router.post("/merge", status_code=201)
async def merge_adapters(body: MergeBody, service: ServiceDep, caller: TrainCaller) -> dict[str, Any]:
    """Merge adapters into a new one, which passes the gate as any update does; 422 if it fails."""
    service.require_open()
    refs = [await _find(service, name, caller) for name in body.adapters]
    if body.name is not None:
        caller.require_sight(body.name)
    # The caller must see every parent, and the name that the merge gets.
    weights = None if body.weights is None else tuple(body.weights)
    report = (
        await service.engine.merge_adapters(
            refs,
            MergeRecipe(body.strategy, weights),
            name=body.name,
            rank=body.rank,
            anyway=body.anyway,
        )
    ).unwrap()
    await _audit(service, caller, "adapter.merge", report.id.name)
    return {
        "id": report.id.name,
        "object": "adapter.merge",
        "rank": report.rank,
        "relative_error": report.relative_error,
        "lossless_rank": report.lossless_rank,
        "weights": list(report.weights),
        "accuracy": dict(report.accuracy),
        "advice": report.advice,
    }


@router.get("/{name:path}/versions")
async def list_versions(name: str, service: ServiceDep, caller: ReadCaller) -> dict[str, Any]:
    """Every version, the oldest first, each with the gate's verdict in words."""
    ref = await _find(service, name, caller)
    head = (await service.engine.get_adapter(ref.adapter)).unwrap().head
    versions = (await service.engine.get_versions(ref.adapter)).unwrap()
    return list_body([describe_version(v, head) for v in versions], False)


@router.get("/{name:path}/verdict")
async def explain_version(name: str, service: ServiceDep, caller: ReadCaller) -> dict[str, Any]:
    """Why a version ("tickets@3", or the head of "tickets") was promoted or refused, line by line."""
    ref = await _find(service, name, caller)
    explanation = (await service.engine.explain_version(ref)).unwrap()
    verdict = explanation.version.verdict
    return {
        "id": str(ref),
        "object": "adapter.verdict",
        "promoted": not explanation.version.refused,
        "lines": list(explanation.lines),
        "verdict": encode(verdict) if verdict else None,
    }


@router.post("/{name:path}/rollback")
async def rollback_adapter(
    name: str, body: RollbackBody, service: ServiceDep, caller: TrainCaller
) -> dict[str, Any]:
    """Serve another version, older or newer."""
    ref = await _find(service, name, caller)
    adapter = (
        await service.engine.rollback_adapter(VersionRef(ref.adapter, body.version), replay=body.replay)
    ).unwrap()
    await _audit(service, caller, "adapter.rollback", f"{ref.adapter}@{body.version}")
    return describe_adapter(adapter)


@router.post("/diff")
async def compare_versions(body: DiffBody, service: ServiceDep, caller: ReadCaller) -> dict[str, Any]:
    """What changed from one version to another: weights, events learned, answers to examples."""
    before = await _find(service, body.before, caller)
    after = await _find(service, body.after, caller)
    probes = [example.read() for example in body.examples]
    comparison = (await service.engine.compare_versions(before, after, probes)).unwrap()
    return {
        "object": "adapter.diff",
        "before": str(comparison.before.ref),
        "after": str(comparison.after.ref),
        "distance": comparison.distance,
        "strengths": list(comparison.strengths),
        "events": list(comparison.learned),
        "answers": [encode(answer) for answer in comparison.answers],
    }


@router.get("/{name:path}/pins")
async def list_pins(name: str, service: ServiceDep, caller: ReadCaller) -> dict[str, Any]:
    """Answers that no update may lose."""
    ref = await _find(service, name, caller)
    probes = (await service.engine.get_probes(ref.adapter)).unwrap()
    pins = [
        _describe_example(n, probe.example)
        for n, probe in enumerate(probes)
        if probe.kind is ProbeKind.PINNED
    ]
    return list_body(pins, False)


@router.post("/{name:path}/pins")
async def pin_answers(
    name: str, body: Examples, service: ServiceDep, caller: FeedbackCaller
) -> dict[str, Any]:
    """Pin answers: they are asked at every update and never trained on."""
    ref = await _find(service, name, caller)
    pins = (await service.engine.pin_answers(ref.adapter, body.read())).unwrap()
    await _audit(service, caller, "adapter.pin", ref.adapter.name)
    return list_body([_describe_example(n, pin) for n, pin in enumerate(pins)], False)


@router.post("/{name:path}/unpin")
async def unpin_answers(
    name: str, body: Prompts, service: ServiceDep, caller: FeedbackCaller
) -> dict[str, Any]:
    """Let go of pins, by their prompts."""
    ref = await _find(service, name, caller)
    prompts = [read_turns(prompt) for prompt in body.prompts]
    pins = (await service.engine.unpin_answers(ref.adapter, prompts)).unwrap()
    await _audit(service, caller, "adapter.unpin", ref.adapter.name)
    return list_body([_describe_example(n, pin) for n, pin in enumerate(pins)], False)


@router.post("/{name:path}/forget")
async def forget_events(
    name: str, body: ForgetBody, service: ServiceDep, caller: AdminCaller
) -> dict[str, Any]:
    """Erase events of the journal, and make again without them what had learned them."""
    service.require_open()
    ref = await _find(service, name, caller)
    erasure = (await service.engine.forget_events(ref.adapter, *body.events)).unwrap()
    await _audit(service, caller, "adapter.forget", f"{ref.adapter}: {body.events}")
    return _describe_erasure(erasure)


@router.post("/{name:path}/evaluate")
async def evaluate_adapter(
    name: str, body: Examples, service: ServiceDep, caller: GenerateCaller
) -> dict[str, Any]:
    """Answer each example greedily, and compare with its output."""
    ref = await _find(service, name, caller)
    with service.occupy(1):
        result = (await service.engine.evaluate_adapter(ref, body.read())).unwrap()
    return {
        "id": str(ref),
        "object": "adapter.evaluation",
        "metric": "exact",
        "rows": result.rows,
        "correct": result.correct,
        "accuracy": result.accuracy,
        "mean_logprob": result.mean_logprob,
        "answers": list(result.answers),
        "right": list(result.right),
    }


@router.get("/{name:path}/export")
async def export_adapter(
    name: str, service: ServiceDep, caller: ReadCaller, form: ExportForm = ExportForm.PEFT
) -> Response:
    """A version as a zip file: PEFT's folder, or the GGUF file of llama.cpp and Ollama."""
    ref = await _find(service, name, caller)
    files = (await service.engine.export_adapter(ref, form)).unwrap()
    return Response(
        await in_thread(_pack_zip, files),
        media_type="application/zip",
        headers={"content-disposition": 'attachment; filename="adapter.zip"'},
    )


@router.get("/{name:path}")
async def get_adapter(name: str, service: ServiceDep, caller: ReadCaller) -> dict[str, Any]:
    """An adapter, its shape and the version that is served."""
    ref = await _find(service, name, caller)
    return describe_adapter((await service.engine.get_adapter(ref.adapter)).unwrap())


@router.delete("/{name:path}")
async def delete_adapter(name: str, service: ServiceDep, caller: AdminCaller) -> dict[str, Any]:
    """Delete an adapter, all its versions and what it was taught."""
    ref = await _find(service, name, caller)
    (await service.engine.delete_adapter(ref.adapter)).unwrap()
    await _audit(service, caller, "adapter.delete", ref.adapter.name)
    return {"id": ref.adapter.name, "deleted": True, "object": "adapter"}


@vllm_router.post("/load_lora_adapter")
async def load_lora_adapter(
    body: LoraBody, service: ServiceDep, caller: ReadCaller
) -> PlainTextResponse:
    """vLLM's verb, by name: adapters of the store are loaded when they are asked. 404 for any other."""
    ref = await _find(service, body.lora_name, caller)
    return PlainTextResponse(f"Success: LoRA adapter '{ref.adapter}' added successfully.")


@vllm_router.post("/unload_lora_adapter")
async def unload_lora_adapter(
    body: LoraBody, service: ServiceDep, caller: ReadCaller
) -> PlainTextResponse:
    """vLLM's verb, by name: the least recently used adapters leave the memory by themselves."""
    ref = await _find(service, body.lora_name, caller)
    return PlainTextResponse(f"Success: LoRA adapter '{ref.adapter}' removed successfully.")


def describe_adapter(adapter: Adapter) -> dict[str, Any]:
    """An adapter as JSON."""
    return {
        "id": adapter.id.name,
        "object": "adapter",
        "created_at": int(adapter.created_at.timestamp()),
        "head": adapter.head,
        "root": f"{adapter.id}@{adapter.head}",
        "parent": adapter.base_name,
        "description": adapter.description,
        "config": encode(adapter.config),
    }


def describe_version(version: Version, head: int) -> dict[str, Any]:
    """A version as JSON, with the gate's verdict in words."""
    return {
        "id": str(version.ref),
        "object": "adapter.version",
        "number": version.number,
        "served": version.number == head,
        "refused": version.refused,
        "verdict": summarize_verdict(version.verdict) if version.verdict else None,
        "cause": version.cause,
        "parents": [str(parent) for parent in version.parents],
        "events": list(version.learned),
        "digest": version.digest,
        "bytes": version.size,
        "created_at": int(version.created_at.timestamp()),
    }


async def _find(service: Service, name: str, caller: Caller) -> VersionRef:
    """The version that a name stands for; 404 if the caller may not see its adapter."""
    try:
        return await service.find_version(name, caller)
    except RequestError as error:
        raise RequestError(404, error.message, code="not_found", param="name") from None


async def _audit(service: Service, caller: Caller, action: str, target: str) -> None:
    await in_thread(service.records.audit, caller.tenant, caller.key, action, target)


def _describe_example(number: int, example: TrainingExample) -> dict[str, Any]:
    prompt = example.input
    messages = (
        [{"role": "user", "content": prompt}]
        if isinstance(prompt, str)
        else [{"role": m.role, "content": m.content} for m in prompt]
    )
    return {"id": f"pin-{number}", "messages": messages, "output": example.output}


def _describe_erasure(erasure: Erasure) -> dict[str, Any]:
    return {
        "object": "adapter.erasure",
        "events": {adapter.name: list(events) for adapter, events in erasure.events.items()},
        "removed": [str(ref) for ref in erasure.removed],
        "remade": [[str(old), str(new) if new else None] for old, new in erasure.remade],
        "pending": {adapter.name: reason for adapter, reason in erasure.pending.items()},
    }


def _pack_zip(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()
