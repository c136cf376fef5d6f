"""Convert the conversations of other programs to prompts and outputs.

A conversation is OpenAI's list of messages, ShareGPT's list of turns, or a transcript: one text with
marks such as `### Human:` before each turn.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ouroboros.domain.checks import check_number
from ouroboros.domain.data import MAX_WEIGHT, Message, Prompt, TrainingExample
from ouroboros.domain.errors import InvalidConfig, InvalidExample

SHAPES_HINT = 'Give "prompt" and "completion", "input" and "output", or "messages".'

_SPEAKERS = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}
"""ShareGPT's names of roles, and ours."""

_TOOL_KEYS = ("tool_calls", "function_call", "tool_call_id", "audio")
_TOOL_ROLES = ("tool", "function", "function_call", "observation", "function_response", "tool_call")

_MARKS = {
    "### human:": "user",
    "### instruction:": "user",
    "### assistant:": "assistant",
    "### response:": "assistant",
    "human:": "user",
    "assistant:": "assistant",
}
_MARK = re.compile(
    r"(?:\A|\n)[ \t]*(### (?:Human|Instruction|Assistant|Response):|(?:Human|Assistant):)", re.IGNORECASE
)
"""Marks of guanaco's and Alpaca's texts and of Anthropic's transcripts, at the beginning of a line."""


def split_conversation(messages: object, weight: Any = 1.0) -> list[TrainingExample]:
    """Make one example of each turn of the assistant that answers a user and has a weight over 0.

    Turns of a user after the last answer are not learned: nobody answers them.
    """
    if not isinstance(messages, list) or len(messages) < 2:
        raise InvalidExample(
            '"messages" needs at least two turns.', hint="The last turn must be the assistant's."
        )
    turns = [parse_message(turn) for turn in messages]
    if not any(turn.role == "assistant" for turn in turns):
        raise InvalidExample(
            f"No turn is the assistant's; the last one has the role {messages[-1]['role']!r}.",
            hint="Only messages of the assistant can be learned.",
        )
    last_answer = max(i for i, turn in enumerate(turns) if turn.role == "assistant")
    examples = []
    for i, turn in enumerate(turns):
        # The first turn of an assistant that greets, or goes on speaking, answers nobody: it is context.
        is_answer = turn.role == "assistant" and i > 0 and turns[i - 1].role == "user"
        scale = _parse_turn_weight(messages[i])
        if (is_answer or i == last_answer) and scale:
            example = TrainingExample(_to_prompt(turns[:i]), turn.content, weight)
            example.check()
            examples.append(replace(example, weight=example.weight * scale))
    if not examples:
        raise InvalidExample(
            "No turn of the assistant has a weight over 0.", hint="Give the turns to learn weight 1."
        )
    return examples


def _parse_turn_weight(turn: Mapping[str, Any]) -> float:
    weight = turn.get("weight")
    weight = 1 if weight is None else weight
    try:
        check_number("weight of a turn", weight, 0.0, MAX_WEIGHT)
    except InvalidConfig as error:
        raise InvalidExample(error.message, hint=error.hint) from None
    return weight


def parse_prompt(value: object) -> Prompt:
    """Convert a text or a list of messages; one user message alone is the same as its text."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and "messages" in value:
        value = value["messages"]
    if not isinstance(value, list | tuple):
        raise InvalidExample("The input is neither a text nor a list of messages.", hint=SHAPES_HINT)
    return _to_prompt([parse_message(turn) for turn in value])


def _to_prompt(turns: Sequence[Message]) -> Prompt:
    return turns[0].content if len(turns) == 1 and turns[0].role == "user" else tuple(turns)


def parse_output(value: object) -> str:
    """Convert a text, or a list of one message of the assistant, to the text."""
    if isinstance(value, str):
        return value
    value = [value] if isinstance(value, Mapping) else value
    if not isinstance(value, list) or len(value) != 1:
        raise InvalidExample("The output is neither a text nor a list of one message.", hint=SHAPES_HINT)
    message = parse_message(value[0])
    if message.role != "assistant":
        raise InvalidExample(
            f"The output is a message with the role {message.role!r}.",
            hint="Only messages of the assistant can be learned.",
        )
    return message.content


def parse_message(turn: object) -> Message:
    """Convert one message of OpenAI, one turn of ShareGPT, or a `Message`.

    Other keys of a message, such as its name, are not learned. Calls of tools, and what tools answer,
    are refused: a template would write them in its own form, which is not stored here.
    """
    if isinstance(turn, Message):
        return turn
    values: Mapping[str, Any] = turn if isinstance(turn, Mapping) else {}
    role = values.get("role")
    if role in _TOOL_ROLES or any(values.get(key) for key in _TOOL_KEYS):
        raise InvalidExample(
            "The conversation has calls of tools, which cannot be learned yet.",
            hint="Write the call as the text of the assistant's turn, or leave the row out.",
        )
    content = values.get("content")
    content = _join_parts(content) if isinstance(content, list) else content
    if not isinstance(role, str) or not isinstance(content, str):
        raise InvalidExample(
            "A message must be an object with the keys role and content, both texts.",
            hint='For example: {"role": "user", "content": "Hello"}.',
        )
    return Message(role, content)


def _join_parts(parts: list[Any]) -> str:
    """The text of a content in OpenAI's parts; an image or a sound is refused by its type."""
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise InvalidExample(
                f"A content has a part of the type {str(kind)[:80]!r}.",
                hint='Only parts like {"type": "text", "text": "Hello"} can be learned.',
            )
        texts.append(part["text"])
    return "".join(texts)


def rename_speakers(turns: list[Any]) -> list[Any]:
    """Convert ShareGPT's turns, with `from` and `value`, to messages; messages stay as they are."""
    return [_rename_speaker(turn) for turn in turns]


def _rename_speaker(turn: object) -> object:
    if not isinstance(turn, Mapping) or "from" not in turn:
        return turn
    speaker = str(turn["from"]).lower()
    role = speaker if speaker in _TOOL_ROLES else _SPEAKERS.get(speaker)
    if role is None:
        raise InvalidExample(
            f"A turn is from {str(turn['from'])[:80]!r}.",
            hint=f"Known are {', '.join(_SPEAKERS)}.",
        )
    return {**turn, "role": role, "content": turn.get("value")}


def split_transcript(text: str) -> list[dict[str, str]] | None:
    """Split a text with marks before its turns into messages; None if it has no such marks.

    Text before the first mark becomes a system turn.
    """
    preamble, *parts = _MARK.split(text)
    if not parts:
        return None
    turns = [{"role": "system", "content": preamble.strip()}] if preamble.strip() else []
    for mark, content in zip(parts[::2], parts[1::2], strict=True):
        turns.append({"role": _MARKS[mark.lower()], "content": content.strip()})
    return turns


def split_pair(chosen: object, rejected: object) -> tuple[Prompt, str, str]:
    """Find the prompt that two conversations share, as TRL does, and the answers they end with."""
    conversations = []
    for value in (chosen, rejected):
        value = split_transcript(value) if isinstance(value, str) else value
        if not isinstance(value, list) or len(value) < 2:
            raise InvalidExample(
                "The row has no prompt, and its two answers are not conversations that share one.",
                hint='Give "prompt", "chosen" and "rejected".',
            )
        conversations.append([parse_message(turn) for turn in rename_speakers(value)])
    (*prompt, good), (*other, bad) = conversations
    if prompt != other:
        raise InvalidExample(
            "The chosen and the rejected conversation differ before their last turn.",
            hint="Give two answers to the same prompt.",
        )
    if good.role != "assistant" or bad.role != "assistant":
        raise InvalidExample(
            "The chosen or the rejected conversation does not end with the assistant's turn.",
            hint="Only messages of the assistant can be learned.",
        )
    return _to_prompt(prompt), good.content, bad.content
