"""Answers printed as they are generated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ouroboros.cli.output import Output
from ouroboros.domain.data import Prompt
from ouroboros.domain.generation import Generation, GenerationConfig
from ouroboros.domain.names import VersionRef

if TYPE_CHECKING:
    from ouroboros.engine import AdapterLearningEngine

LONGEST = 4096
"""Tokens of an answer that has no end mark, at most, if the model's context allows that many."""


async def print_stream(
    engine: AdapterLearningEngine,
    prompt: Prompt,
    name: str | VersionRef,
    config: GenerationConfig,
    out: Output,
) -> Generation | None:
    """Prints the answer as it is generated, and ends the line even if generation fails."""
    answer, started = None, False
    try:
        async for piece in engine.stream_with_adapter(prompt, name, config):
            delta = piece.unwrap()
            out.piece(delta.text)
            answer, started = delta.generation, True
    finally:
        if started:
            out.piece("\n")
    return answer
