"""Parameters of chat completions and completions: which are obeyed, which are accepted when neutral."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ouroboros.domain.data import Message, Prompt
from ouroboros.domain.generation import MAX_TOP_LOGPROBS, GenerationConfig
from ouroboros.server.errors import RequestError, unsupported_parameter

TO_THE_END = 1_000_000
"""Tokens where the caller sets no limit: the answer ends with the model's context."""

MAX_CHOICES = 64

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "prompt_cache_key": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "safety_identifier": (),
    "service_tier": ("auto", "default"),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "user": (),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Parameters of OpenAI's that change nothing at these values. None is always neutral."""

_LABELS = ("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
"""Labels for OpenAI's own bookkeeping: any value is accepted, none changes the answer."""


class StreamOptions(BaseModel):
    """What a stream carries beside the text."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    include_obfuscation: bool = False


class AnswerParameters(BaseModel):
    """Parameters that both endpoints share."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str = Field(min_length=1, max_length=200, examples=["tickets"])
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def refuse_unsupported(self) -> None:
        """Raise for a parameter whose value would change the answer if it were obeyed."""
        for name, value in (self.model_extra or {}).items():
            if name not in _NEUTRAL:
                raise RequestError(
                    400,
                    f"There is no parameter {name[:80]!r}.",
                    code="unknown_parameter",
                    param=name[:80],
                )
            if value is None or name in _LABELS or value in _NEUTRAL[name]:
                continue
            raise unsupported_parameter(
                name, f"This server does not support {name} = {str(value)[:80]}."
            )
        if self.stream_options is not None and not self.stream:
            raise RequestError(
                400,
                "stream_options is for streams: set stream.",
                code="invalid_value",
                param="stream_options",
            )

    @property
    def choices(self) -> int:
        """How many answers to generate."""
        return self.n or 1

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """Up to four texts; raises for an empty one."""
        texts = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(texts) > 4 or not all(texts):
            raise RequestError(
                400, "stop is up to four texts, none of them empty.", code="invalid_value", param="stop"
            )
        return texts

    def configs(self, top_logprobs: int | None, limit: int | None = None) -> list[GenerationConfig]:
        """How each choice is generated. With a seed, each choice has its own, counted from it."""
        temperature = 1.0 if self.temperature is None else self.temperature
        return [
            GenerationConfig(
                max_tokens=min(limit or self.max_tokens or TO_THE_END, TO_THE_END),
                temperature=float(temperature),
                top_p=max(1.0 if self.top_p is None else float(self.top_p), 1e-6),
                seed=None if self.seed is None else (self.seed + index) % 2**63,
                stop=self.stop_texts,
                top_logprobs=top_logprobs,
            )
            for index in range(self.choices)
        ]


class TextPart(BaseModel):
    """A part of a message. Images, audio and files are not read."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn. `developer` is `system` by another name."""

    model_config = ConfigDict(extra="allow", strict=True)
    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | list[TextPart] | None = None


class ChatParameters(AnswerParameters):
    """The body of POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(
        min_length=1, examples=[[{"role": "user", "content": "Where is my parcel?"}]]
    )
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    store: bool | None = None
    metadata: dict[str, str] | None = None

    def prompt(self) -> Prompt:
        """The conversation; raises with the path of a turn that cannot be read."""
        return read_turns(self.messages)


def read_turns(messages: Sequence[ChatMessage]) -> Prompt:
    """Messages as a prompt; raises with the path of a turn that cannot be read."""
    turns = tuple(_read_turn(turn, index) for index, turn in enumerate(messages))
    if not turns or turns[-1].role != "user":
        raise RequestError(
            400,
            "The last message is not the user's.",
            code="invalid_value",
            param=f"messages.{len(turns) - 1}.role",
        )
    return turns[0].content if len(turns) == 1 else turns


def check_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """OpenAI's limits: 16 pairs, keys of 64 and values of 512 characters."""
    pairs = dict(metadata or {})
    if len(pairs) > 16 or any(len(k) > 64 or len(v) > 512 for k, v in pairs.items()):
        raise RequestError(
            400,
            "metadata has at most 16 pairs, with keys of 64 and values of 512 characters.",
            code="invalid_value",
            param="metadata",
        )
    return pairs


def _read_turn(turn: ChatMessage, index: int) -> Message:
    if turn.role in ("tool", "function"):
        raise unsupported_parameter(f"messages.{index}.role", "This server has no tools.")
    for name, value in (turn.model_extra or {}).items():
        if value not in (None, [], ""):
            raise unsupported_parameter(
                f"messages.{index}.{name}", f"This server does not read {name[:80]!r} of a message."
            )
    content = turn.content
    text = content if isinstance(content, str) else "".join(part.text for part in content or ())
    if not text.strip():
        raise RequestError(
            400, "The message is empty.", code="invalid_value", param=f"messages.{index}.content"
        )
    return Message("system" if turn.role == "developer" else turn.role, text)
