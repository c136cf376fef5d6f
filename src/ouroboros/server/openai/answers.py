"""Answers of several choices: all at once, or as one stream of pieces."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from ouroboros.backend.base import GenerationChunk
from ouroboros.domain.data import Continuation, Prompt
from ouroboros.domain.generation import Generation, GenerationConfig, TokenLogprob
from ouroboros.domain.result import Err, Result
from ouroboros.server.service import Service, Target

Request = tuple[Prompt | Continuation, GenerationConfig]


async def generate_choices(
    service: Service, target: Target, requests: Sequence[Request]
) -> list[Generation]:
    """All choices, computed in one batch. The first error ends the others."""
    calls = [
        asyncio.ensure_future(service.engine.generate_with_adapter(prompt, target.ref, config))
        for prompt, config in requests
    ]
    try:
        answers = [(await call).unwrap() for call in calls]
        for answer in answers:
            service.metrics.count_tokens(answer.prompt_tokens, len(answer.tokens))
        return answers
    finally:
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)


async def stream_choices(
    service: Service, target: Target, requests: Sequence[Request]
) -> AsyncIterator[tuple[int, GenerationChunk]]:
    """Pieces of all choices as they come, each with the number of its choice. Raises the first error."""
    pieces: asyncio.Queue[tuple[int, Result[GenerationChunk] | None]] = asyncio.Queue()

    async def pump(index: int, prompt: Prompt | Continuation, config: GenerationConfig) -> None:
        try:
            async for piece in service.engine.stream_with_adapter(prompt, target.ref, config):
                await pieces.put((index, piece))
        finally:
            await pieces.put((index, None))

    pumps = [asyncio.ensure_future(pump(i, *request)) for i, request in enumerate(requests)]
    try:
        remaining = len(pumps)
        while remaining:
            index, piece = await pieces.get()
            if piece is None:
                remaining -= 1
            elif isinstance(piece, Err):
                raise piece.error
            else:
                if (answer := piece.value.generation) is not None:
                    service.metrics.count_tokens(answer.prompt_tokens, len(answer.tokens))
                yield index, piece.value
        for task in pumps:
            task.result()  # a bug in a pump is an error here, too
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.wait(pumps)


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """Tokens read and written."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def token_text(detail: TokenLogprob) -> str:
    """A token as text; parts of a character become the replacement character."""
    return detail.data.decode(errors="replace")


def sse(data: Any) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


DONE = b"data: [DONE]\n\n"
