"""POST /v1/completions: text that the model goes on with as it stands."""

import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import Field

from ouroboros.backend.base import GenerationChunk
from ouroboros.domain.data import Continuation
from ouroboros.domain.generation import Generation, GenerationConfig, TokenLogprob
from ouroboros.server.dependencies import GenerateCaller, ServiceDep, run_while_connected
from ouroboros.server.errors import RequestError, describe_error, logger
from ouroboros.server.openai.answers import (
    DONE,
    generate_choices,
    sse,
    stream_choices,
    token_text,
    usage,
)
from ouroboros.server.openai.parameters import MAX_CHOICES, AnswerParameters
from ouroboros.server.records import new_id
from ouroboros.server.service import Target

router = APIRouter(prefix="/v1/completions", tags=["OpenAI"])


class CompletionParameters(AnswerParameters):
    """The body of POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]] = Field(examples=["The parcel is"])
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = None

    def continuations(self) -> list[Continuation]:
        """One for each prompt: a text, a list of texts, token ids, or a list of those."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [Continuation(prompt)]
        if prompt and isinstance(prompt[0], int):
            return [Continuation(tuple(prompt))]  # type: ignore[arg-type]  # all are ids, as the first
        return [
            Continuation(text if isinstance(text, str) else tuple(text))  # type: ignore[arg-type]
            for text in prompt
        ]


@router.post("")
async def create_completion(
    body: CompletionParameters, request: Request, service: ServiceDep, caller: GenerateCaller
) -> Response:
    """Go on with one or more texts, without the chat template."""
    # 1. Refuse what cannot be obeyed, before anything is computed.
    body.refuse_unsupported()
    if body.echo and body.logprobs is not None:
        raise RequestError(
            400, "echo does not go with logprobs.", code="unsupported_parameter", param="echo"
        )
    prompts = body.continuations()
    if not 0 < len(prompts) * body.choices <= MAX_CHOICES:
        raise RequestError(
            400,
            f"Prompts times n are {len(prompts) * body.choices}; at least 1 and at most"
            f" {MAX_CHOICES} fit one request.",
            code="invalid_value",
            param="prompt",
        )
    for prompt in prompts:
        prompt.check()
    # OpenAI's default here is 16 tokens, unlike for chats.
    configs = body.configs(body.logprobs, body.max_tokens or 16)
    requests = [(prompt, config) for prompt in prompts for config in configs]
    # 2. Choose the version, and hold room in the queue until the answers are out.
    with ExitStack() as room:
        room.enter_context(service.occupy(len(requests)))
        text = next((p.text for p in prompts if isinstance(p.text, str)), "")
        target = await service.resolve(body.model, text, caller)
        completion = _TextCompletion(body, requests, target)
        headers = {"x-ouroboros-version": target.version or "base"}
        if not body.stream:
            work = generate_choices(service, target, requests)
            answers = await run_while_connected(request, work)
            return JSONResponse(completion.body(answers), headers=headers)
        # 3. The first piece decides between an error with a status and a stream.
        pieces = stream_choices(service, target, requests)
        first = await anext(pieces)
        stream = completion.stream(first, pieces, room.pop_all())
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


class _TextCompletion:
    """One completion: its answers as a body or as chunks, which have the same form."""

    def __init__(
        self,
        parameters: CompletionParameters,
        requests: list[tuple[Continuation, GenerationConfig]],
        target: Target,
    ) -> None:
        self._parameters = parameters
        self._requests = requests
        self._head = {
            "id": new_id("cmpl"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": target.version or parameters.model,
            "system_fingerprint": target.fingerprint,
        }

    def body(self, answers: list[Generation]) -> dict[str, Any]:
        """The response without streaming."""
        choices = [
            {
                "index": index,
                "text": self._echo(index) + answer.text,
                "logprobs": self._logprobs(answer.details, 0),
                "finish_reason": answer.finish,
            }
            for index, answer in enumerate(answers)
        ]
        return {**self._head, "choices": choices, "usage": self._usage(answers)}

    async def stream(
        self,
        first: tuple[int, GenerationChunk],
        pieces: AsyncIterator[tuple[int, GenerationChunk]],
        room: ExitStack,
    ) -> AsyncIterator[bytes]:
        """Server-sent events: the pieces, the usage if it is asked for, and [DONE]."""
        answers: dict[int, Generation] = {}
        offsets = [0] * len(self._requests)
        options = self._parameters.stream_options
        with_usage = options is not None and options.include_usage
        with room:
            async with aclosing(pieces):  # type: ignore[type-var]  # an async generator
                try:
                    for index in range(len(self._requests)):
                        if echo := self._echo(index):
                            yield self._chunk(index, echo, None, None, with_usage)
                    piece: tuple[int, GenerationChunk] | None = first
                    while piece is not None:
                        index, chunk = piece
                        finish = chunk.generation.finish if chunk.generation else None
                        logprobs = self._logprobs(chunk.details, offsets[index])
                        offsets[index] += len(chunk.text)
                        yield self._chunk(index, chunk.text, logprobs, finish, with_usage)
                        if chunk.generation is not None:
                            answers[index] = chunk.generation
                        piece = await anext(pieces, None)
                    if with_usage:
                        total = self._usage([answers[index] for index in sorted(answers)])
                        yield sse({**self._head, "choices": [], "usage": total})
                except Exception as error:
                    status, body = describe_error(error)
                    if status >= 500:
                        logger.exception("stream failed", exc_info=error)
                    yield sse(body)
                yield DONE

    def _chunk(
        self,
        index: int,
        text: str,
        logprobs: dict[str, Any] | None,
        finish: str | None,
        with_usage: bool,
    ) -> bytes:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        body = {**self._head, "choices": [choice]}
        return sse({**body, "usage": None} if with_usage else body)

    def _echo(self, index: int) -> str:
        text = self._requests[index][0].text
        return text if self._parameters.echo and isinstance(text, str) else ""

    def _usage(self, answers: list[Generation]) -> dict[str, Any]:
        read = sum(answer.prompt_tokens for answer in answers[:: self._parameters.choices])
        return usage(read, sum(len(answer.tokens) for answer in answers))

    def _logprobs(self, details: tuple[TokenLogprob, ...], start: int) -> dict[str, Any] | None:
        """The older form: four lists, with offsets into the choice's text."""
        if self._parameters.logprobs is None:
            return None
        texts = [token_text(detail) for detail in details]
        offsets = [start + sum(map(len, texts[:i])) for i in range(len(texts))]
        return {
            "tokens": texts,
            "token_logprobs": [detail.logprob for detail in details],
            "top_logprobs": [
                {token_text(other): other.logprob for other in detail.alternatives} for detail in details
            ],
            "text_offset": offsets,
        }
