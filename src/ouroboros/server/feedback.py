"""/v1/feedback: what people think of a completion, by its id, learned by the adapter that gave it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from hashlib import sha256
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from ouroboros.domain.data import Message, Prompt
from ouroboros.domain.errors import Conflict, NotFound, OuroborosError
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.generation import Generation
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Ticket
from ouroboros.registry.threads import in_thread
from ouroboros.server.dependencies import FeedbackCaller, ReadCaller, ServiceDep
from ouroboros.server.errors import RequestError, describe_error
from ouroboros.server.idempotency import claim_id
from ouroboros.server.keys import Caller
from ouroboros.server.openai.answers import sse
from ouroboros.server.openai.parameters import ChatMessage, read_turns
from ouroboros.server.records import list_body, new_id, page
from ouroboros.server.service import Service

router = APIRouter(prefix="/v1/feedback", tags=["Feedback"])

PING_SECONDS = 15.0
"""Seconds between the comments that keep a silent stream open."""


class FeedbackParameters(BaseModel):
    """The body of POST /v1/feedback: which answer, and exactly one judgement of it."""

    model_config = ConfigDict(extra="forbid")

    completion_id: str | None = Field(None, examples=["chatcmpl-0123"])
    choice: int = Field(0, ge=0)
    messages: list[ChatMessage] | None = None
    answer: str | None = None
    adapter: str | None = None
    rating: Literal["up", "down"] | None = None
    score: float | None = Field(None, ge=-1, le=1)
    correction: str | None = None
    preferred_over: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    critique: str | None = None
    user: str | None = Field(None, max_length=256)

    def judgement(self) -> str:
        """The name of the one judgement; raises unless there is exactly one."""
        names = ("rating", "score", "correction", "preferred_over", "chosen", "critique")
        present = [name for name in names if getattr(self, name) is not None]
        if len(present) != 1 or (self.rejected is not None) != (present == ["chosen"]):
            raise RequestError(
                400,
                f"Give exactly one of {', '.join(names)}; chosen goes with rejected.",
                code="invalid_value",
            )
        return present[0]


class _Judged:
    """An answer that somebody judges: the prompt, the generation, and the adapter that learns."""

    def __init__(self, prompt: Prompt, generation: str | Generation, adapter: str) -> None:
        self.prompt = prompt
        self.generation = generation
        self.adapter = adapter

    @property
    def text(self) -> str:
        return self.generation if isinstance(self.generation, str) else self.generation.text


@router.post("", status_code=202)
async def create_feedback(
    body: FeedbackParameters,
    request: Request,
    response: Response,
    service: ServiceDep,
    caller: FeedbackCaller,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> dict[str, Any]:
    """Judge an answer: thumbs, a score, a correction, a preference, or words.

    The judgement is durable when this returns; it is learned in the background, and the ticket says
    what came of it. Sending it again changes nothing.
    """
    # 1. Find the answer, and read the judgement.
    service.require_open()
    name = body.judgement()
    judged = await _find_answer(service, body, caller)
    signal = await _read_signal(service, body, name, judged, caller)
    # 2. The ticket's id is claimed first, and is the event's key: a repetition cannot be a second event.
    id = await in_thread(
        claim_id,
        service.records,
        caller.tenant,
        request.url.path,
        idempotency_key or sha256(body.model_dump_json().encode(errors="replace")).hexdigest(),
        body.model_dump_json(),
        new_id("fb"),
    )
    earlier = await in_thread(service.records.tickets.find, id)
    if earlier is not None and earlier["status"] == "forgotten":
        raise RequestError(
            409,
            "This judgement was unlearned. To give it anew, send another Idempotency-Key.",
            code="forgotten",
        )
    ticket = (
        await service.engine.learn_from_feedback(
            judged.prompt,
            judged.generation,
            signal,
            judged.adapter,
            user=body.user,
            key=id,
            wait=False,
        )
    ).unwrap()
    record = {
        "id": id,
        "tenant": caller.tenant,
        "adapter": judged.adapter,
        "event": ticket.event,
        "completion_id": body.completion_id,
        "kind": signal.kind.value,
        "status": "accepted",
    }
    try:
        await in_thread(service.records.tickets.create, id, record)
    except Conflict:
        record = dict(await in_thread(service.records.tickets.get, id, caller.tenant))
    response.headers["location"] = f"/v1/feedback/{id}"
    return await _describe(service, record)


@router.get("")
async def list_feedback(
    service: ServiceDep,
    caller: ReadCaller,
    adapter: str | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> dict[str, Any]:
    """Tickets, the newest first, of one adapter or all."""
    records = await in_thread(service.records.tickets.all, caller.tenant)
    chosen = [r for r in reversed(records) if adapter in (None, r["adapter"])]
    values, has_more = page(chosen, after, limit)
    return list_body([await _describe(service, record) for record in values], has_more)


@router.get("/{id}")
async def get_feedback(id: str, service: ServiceDep, caller: ReadCaller) -> dict[str, Any]:
    """What came of a judgement: `pending`, `learned`, `not_learned` or `forgotten`, with the reason."""
    record = await in_thread(service.records.tickets.get, id, caller.tenant)
    return await _describe(service, record)


@router.get("/{id}/events")
async def stream_feedback(id: str, service: ServiceDep, caller: ReadCaller) -> StreamingResponse:
    """Server-sent events: the ticket as it is now and, once it is learned, as it is then."""
    record = await in_thread(service.records.tickets.get, id, caller.tenant)
    return StreamingResponse(_follow(service, record), media_type="text/event-stream")


@router.delete("/{id}")
async def delete_feedback(id: str, service: ServiceDep, caller: FeedbackCaller) -> dict[str, Any]:
    """Unlearn a judgement: it is erased, and what had learned it is made again without it."""
    service.require_open()
    record = await in_thread(service.records.tickets.get, id, caller.tenant)
    if record["status"] != "forgotten":
        # What is noted for erasure is erased by the next call even if this one is interrupted.
        await _forget(service, record)
        change = service.records.tickets.change
        record = await in_thread(change, id, lambda r: {**r, "status": "forgotten"})
        await in_thread(service.records.audit, caller.tenant, caller.key, "feedback.delete", id)
    return {"id": id, "object": "feedback", "deleted": True}


async def _forget(service: Service, record: Mapping[str, Any]) -> None:
    try:
        (await service.engine.forget_events(record["adapter"], record["event"])).unwrap()
    except NotFound:
        return  # with its adapter, or by another way


async def _find_answer(service: Service, body: FeedbackParameters, caller: Caller) -> _Judged:
    """The answer by its completion, or as the caller gives it."""
    if body.completion_id is not None:
        return await _find_choice(service, body.completion_id, body.choice, body.adapter, caller)
    answer = body.answer if body.rejected is None else body.rejected
    if body.messages is None or answer is None or body.adapter is None:
        raise RequestError(
            400,
            "Give completion_id, or else messages, answer and adapter.",
            code="invalid_value",
            param="completion_id",
        )
    ref = await _find_adapter(service, body.adapter, caller)
    return _Judged(read_turns(body.messages), answer, ref.adapter.name)


async def _find_choice(
    service: Service, id: str, choice: int, adapter: str | None, caller: Caller
) -> _Judged:
    """A choice of a stored completion, with the version and the tokens that it was sampled with."""
    # 1. Completions of other tenants are as unknown as those that were never stored.
    record = await in_thread(service.records.completions.find, id)
    if record is None or record["tenant"] != caller.tenant:
        raise RequestError(
            404,
            f"There is no completion {id[:80]!r}. It is too old, or was created with store: false;"
            " give messages and answer instead.",
            code="not_found",
            param="completion_id",
        )
    if choice >= len(record["answers"]):
        raise RequestError(
            400,
            f"The completion has {len(record['answers'])} choices, counted from 0.",
            code="invalid_value",
            param="choice",
        )
    # 2. A single user message is plain text to the engine, as it was when it was answered.
    messages = [Message(m["role"], m["content"]) for m in record["messages"]]
    prompt: Prompt = messages[0].content if len(messages) == 1 else tuple(messages)
    answer = record["answers"][choice]
    version = record["version"]
    name = adapter or (version and VersionRef.parse(version).adapter.name)
    if name is None:
        raise RequestError(
            400,
            "The base model gave this answer. Say with adapter which adapter is to learn from it.",
            code="invalid_value",
            param="adapter",
        )
    ref = await _find_adapter(service, name, caller)
    # 3. Tokens and log-probabilities say what was sampled only to the adapter that sampled them.
    if version is None or VersionRef.parse(version).adapter != ref.adapter:
        return _Judged(prompt, answer["text"], ref.adapter.name)
    generation = Generation(
        answer["text"],
        tuple(answer["tokens"]),
        tuple(answer["logprobs"]),
        answer["finish"],
        answer["prompt_tokens"],
        version,
    )
    return _Judged(prompt, generation, ref.adapter.name)


async def _find_adapter(service: Service, name: str, caller: Caller) -> VersionRef:
    try:
        return await service.find_version(name, caller)
    except RequestError as error:
        raise RequestError(404, error.message, code="not_found", param="adapter") from None


async def _read_signal(
    service: Service, body: FeedbackParameters, name: str, judged: _Judged, caller: Caller
) -> FeedbackSignal:
    """The judgement as the engine takes it."""
    match name:
        case "rating":
            return FeedbackSignal.success() if body.rating == "up" else FeedbackSignal.failure()
        case "score":
            score = float(body.score or 0.0)
            return FeedbackSignal.success(score) if score >= 0 else FeedbackSignal.failure(score)
        case "correction":
            return FeedbackSignal.user_correction(str(body.correction))
        case "critique":
            return FeedbackSignal.critique(str(body.critique))
        case "chosen":
            return FeedbackSignal.preference_pair(str(body.chosen), str(body.rejected))
    other = await _find_choice(service, str(body.preferred_over), 0, judged.adapter, caller)
    if other.prompt != judged.prompt:
        raise RequestError(
            400,
            "The two completions answer different prompts.",
            code="invalid_value",
            param="preferred_over",
        )
    return FeedbackSignal.preference_pair(judged.text, other.text)


async def _describe(service: Service, record: Mapping[str, Any]) -> dict[str, Any]:
    """A ticket, with the outcome as it is in the store now."""
    body = {
        "id": record["id"],
        "object": "feedback",
        "adapter": record["adapter"],
        "event": record["event"],
        "completion_id": record["completion_id"],
        "kind": record["kind"],
        "status": "forgotten",
        "lesson": None,
        "version": None,
    }
    if record["status"] == "forgotten":
        return body
    try:
        ticket = Ticket(AdapterId(record["adapter"]), record["event"])
        outcome = (await service.engine.look_up_feedback(ticket)).unwrap()
    except NotFound:  # the adapter was deleted, and its journal with it
        return body
    if outcome.lesson is None:
        return body | {"status": "pending"}
    return body | {
        "status": "learned" if outcome.lesson.learned else "not_learned",
        "lesson": outcome.lesson.words,
        "version": str(outcome.version.ref) if outcome.version else None,
    }


async def _follow(service: Service, record: Mapping[str, Any]) -> AsyncIterator[bytes]:
    """The ticket now; a comment now and then; the ticket when it is final, or the server stops."""
    now = await _describe(service, record)
    yield sse(now)
    if now["status"] != "pending":
        return
    ticket = Ticket(AdapterId(record["adapter"]), record["event"])
    learning = asyncio.ensure_future(service.engine.feedback_outcome(ticket))
    draining = asyncio.ensure_future(service.draining.wait())
    try:
        while not (learning.done() or draining.done()):
            await asyncio.wait(
                {learning, draining},
                timeout=PING_SECONDS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            yield b": waiting\n\n"
        if learning.done():
            try:
                learning.result().unwrap()
                yield sse(await _describe(service, record))
            except OuroborosError as error:
                yield sse(describe_error(error)[1])
    finally:
        draining.cancel()
        # Cancelling would only stop the learning that others wait for, too: it goes on by itself.
        await asyncio.wait({draining})
