"""POST /v1/chat/completions, and completions by their id."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict

from ouroboros.backend.base import GenerationChunk
from ouroboros.domain.data import Prompt, to_messages
from ouroboros.domain.errors import NotFound
from ouroboros.domain.generation import Generation, TokenLogprob
from ouroboros.registry.threads import in_thread
from ouroboros.server.dependencies import (
    GenerateCaller,
    ReadCaller,
    ServiceDep,
    run_while_connected,
)
from ouroboros.server.errors import RequestError, describe_error, logger
from ouroboros.server.keys import Caller
from ouroboros.server.openai.answers import (
    DONE,
    generate_choices,
    sse,
    stream_choices,
    token_text,
    usage,
)
from ouroboros.server.openai.parameters import ChatParameters, check_metadata
from ouroboros.server.records import list_body, new_id, page
from ouroboros.server.service import Service, Target

router = APIRouter(prefix="/v1/chat/completions", tags=["OpenAI"])


@router.post("")
async def create_chat_completion(
    body: ChatParameters, request: Request, service: ServiceDep, caller: GenerateCaller
) -> Response:
    """Answer a conversation with an adapter, a version of it, the best match ("auto") or the base.

    The completion is kept for a while, so that feedback can name it by its id, unless `store` is false.
    """
    # 1. Refuse what cannot be obeyed, before anything is computed.
    body.refuse_unsupported()
    metadata = check_metadata(body.metadata)
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError(
            400, "top_logprobs needs logprobs.", code="invalid_value", param="top_logprobs"
        )
    prompt = body.prompt()
    limit = body.max_completion_tokens or body.max_tokens
    configs = body.configs((body.top_logprobs or 0) if body.logprobs else None, limit)
    # 2. Choose the version, and hold room in the queue until the answer is out.
    with ExitStack() as room:
        room.enter_context(service.occupy(body.choices))
        target = await service.resolve(body.model, prompt, caller)
        chat = _Chat(service, caller, body, prompt, metadata, target)
        requests = [(prompt, config) for config in configs]
        headers = {"x-ouroboros-version": target.version or "base"}
        if not body.stream:
            work = generate_choices(service, target, requests)
            answers = await run_while_connected(request, work)
            await chat.keep(answers)
            return JSONResponse(chat.body(answers), headers=headers)
        # 3. The first piece decides between an error with a status and a stream.
        pieces = stream_choices(service, target, requests)
        first = await anext(pieces)
        stream = chat.stream(first, pieces, room.pop_all())
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


class MetadataChange(BaseModel):
    """The body of POST /v1/chat/completions/{id}."""

    model_config = ConfigDict(extra="forbid")
    metadata: dict[str, str] | None


@router.get("")
async def list_chat_completions(
    service: ServiceDep,
    caller: ReadCaller,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Annotated[str, Query(pattern="^(asc|desc)$")] = "asc",
    model: str | None = None,
) -> dict[str, Any]:
    """Completions that were created with `store: true`, the oldest first."""
    keys = await in_thread(service.records.stored.all, caller.tenant)
    records = [await in_thread(service.records.completions.find, key["id"]) for key in keys]
    bodies = [r["body"] for r in records if r is not None and model in (None, r["body"]["model"])]
    values, has_more = page(bodies if order == "asc" else bodies[::-1], after, limit)
    return list_body(values, has_more)


@router.get("/{id}")
async def get_chat_completion(id: str, service: ServiceDep, caller: ReadCaller) -> dict[str, Any]:
    """A stored completion."""
    return (await in_thread(_find_stored, service, id, caller))["body"]


@router.get("/{id}/messages")
async def list_chat_messages(
    id: str,
    service: ServiceDep,
    caller: ReadCaller,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Annotated[str, Query(pattern="^(asc|desc)$")] = "asc",
) -> dict[str, Any]:
    """The conversation that a stored completion answered."""
    record = await in_thread(_find_stored, service, id, caller)
    turns = [{"id": f"{id}-{i}", **m} for i, m in enumerate(record["messages"])]
    values, has_more = page(turns if order == "asc" else turns[::-1], after, limit)
    return list_body(values, has_more)


@router.post("/{id}")
async def update_chat_completion(
    id: str, body: MetadataChange, service: ServiceDep, caller: GenerateCaller
) -> dict[str, Any]:
    """Replace the metadata of a stored completion."""
    metadata = check_metadata(body.metadata)
    await in_thread(_find_stored, service, id, caller)

    def change(record: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**record, "body": {**record["body"], "metadata": metadata}}

    return (await in_thread(service.records.completions.change, id, change))["body"]


@router.delete("/{id}")
async def delete_chat_completion(id: str, service: ServiceDep, caller: GenerateCaller) -> dict[str, Any]:
    """Forget a completion. Feedback that was given on it stays: see DELETE /v1/feedback/{id}."""
    await in_thread(service.records.completions.get, id, caller.tenant)
    await in_thread(service.records.stored.delete, id)
    await in_thread(service.records.completions.delete, id)
    return {"id": id, "deleted": True, "object": "chat.completion.deleted"}


def _find_stored(service: Service, id: str, caller: Caller) -> Mapping[str, Any]:
    record = service.records.completions.get(id, caller.tenant)
    if service.records.stored.find(id) is None:
        raise NotFound(f"There is no stored completion {id[:80]!r}.", hint="Create it with store: true.")
    return record


class _Chat:
    """One chat completion: its id, and its answers as bodies, chunks and a record."""

    def __init__(
        self,
        service: Service,
        caller: Caller,
        parameters: ChatParameters,
        prompt: Prompt,
        metadata: dict[str, str],
        target: Target,
    ) -> None:
        self._service = service
        self._caller = caller
        self._parameters = parameters
        self._prompt = prompt
        self._metadata = metadata
        self._target = target
        self._id = new_id("chatcmpl")
        self._created = int(time.time())

    def body(self, answers: list[Generation]) -> dict[str, Any]:
        """The response without streaming."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": self._logprobs(answer.details),
                "finish_reason": answer.finish,
            }
            for index, answer in enumerate(answers)
        ]
        return {
            **self._head("chat.completion"),
            "choices": choices,
            "usage": self._usage(answers),
            "metadata": self._metadata or None,
        }

    async def stream(
        self,
        first: tuple[int, GenerationChunk],
        pieces: AsyncIterator[tuple[int, GenerationChunk]],
        room: ExitStack,
    ) -> AsyncIterator[bytes]:
        """Server-sent events: the roles, the pieces, the usage if it is asked for, and [DONE]."""
        answers: dict[int, Generation] = {}
        with room:
            async with aclosing(pieces):  # type: ignore[type-var]  # an async generator
                try:
                    for index in range(self._parameters.choices):
                        yield self._chunk(index, {"role": "assistant", "content": "", "refusal": None})
                    async for index, piece in _chain(first, pieces):
                        if piece.text or piece.details:
                            yield self._chunk(index, {"content": piece.text}, piece.details)
                        if piece.generation is not None:
                            answers[index] = piece.generation
                            yield self._chunk(index, {}, finish=piece.generation.finish)
                    ordered = [answers[index] for index in sorted(answers)]
                    await self.keep(ordered)
                    if self._with_usage:
                        yield sse(
                            {
                                **self._head("chat.completion.chunk"),
                                "choices": [],
                                "usage": self._usage(ordered),
                            }
                        )
                except Exception as error:
                    # The status is out already: OpenAI's clients raise what a stream says of an error.
                    status, body = describe_error(error)
                    if status >= 500:
                        logger.exception("stream failed", exc_info=error)
                    yield sse(body)
                yield DONE

    async def keep(self, answers: list[Generation]) -> None:
        """Store the completion durably, before the client can name it, unless it must not be."""
        if self._parameters.store is False:
            return
        record = {
            "id": self._id,
            "tenant": self._caller.tenant,
            "version": self._target.version,
            "messages": [{"role": m.role, "content": m.content} for m in to_messages(self._prompt)],
            "answers": [
                {
                    "text": answer.text,
                    "tokens": list(answer.tokens),
                    "logprobs": list(answer.logprobs),
                    "finish": answer.finish,
                    "prompt_tokens": answer.prompt_tokens,
                }
                for answer in answers
            ],
            "body": self.body(answers),
        }
        await in_thread(self._service.records.completions.create, self._id, record)
        if self._parameters.store:
            key = {"id": self._id, "tenant": self._caller.tenant}
            await in_thread(self._service.records.stored.create, self._id, key)

    @property
    def _with_usage(self) -> bool:
        options = self._parameters.stream_options
        return options is not None and options.include_usage

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._target.version or self._parameters.model,
            "system_fingerprint": self._target.fingerprint,
            "service_tier": "default",
        }

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        details: tuple[TokenLogprob, ...] = (),
        finish: str | None = None,
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs(details) if details else None,
            "finish_reason": finish,
        }
        body = {**self._head("chat.completion.chunk"), "choices": [choice]}
        return sse({**body, "usage": None} if self._with_usage else body)

    def _usage(self, answers: list[Generation]) -> dict[str, Any]:
        written = sum(len(answer.tokens) for answer in answers)
        return usage(answers[0].prompt_tokens if answers else 0, written)

    def _logprobs(self, details: tuple[TokenLogprob, ...]) -> dict[str, Any] | None:
        if not self._parameters.logprobs:
            return None
        content = [
            {**_describe_token(d), "top_logprobs": [_describe_token(other) for other in d.alternatives]}
            for d in details
        ]
        return {"content": content, "refusal": None}


def _describe_token(detail: TokenLogprob) -> dict[str, Any]:
    return {"token": token_text(detail), "bytes": list(detail.data), "logprob": detail.logprob}


async def _chain(
    first: tuple[int, GenerationChunk], pieces: AsyncIterator[tuple[int, GenerationChunk]]
) -> AsyncIterator[tuple[int, GenerationChunk]]:
    yield first
    async for piece in pieces:
        yield piece
