"""Recognise the format of a row by its columns, and convert it to examples or feedback.

`FORMATS` is the table, the most specific format first: a row has the first format whose columns it has.
Other columns are ignored, and the reader counts them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeAlias

from ouroboros.data.conversations import (
    SHAPES_HINT,
    parse_output,
    parse_prompt,
    rename_speakers,
    split_conversation,
    split_pair,
    split_transcript,
)
from ouroboros.domain.data import Message, Prompt, TrainingExample, to_messages
from ouroboros.domain.errors import InvalidExample
from ouroboros.domain.feedback import FeedbackSignal, RecordedFeedback

Columns: TypeAlias = Mapping[str, Any]
"""One row of a file: values by column. Columns without a value are absent."""

Value: TypeAlias = TrainingExample | RecordedFeedback

PROMPT_COLUMNS = ("instruction", "prompt", "question", "query", "input")
ANSWER_COLUMNS = ("completion", "output", "response", "answer")
CONTEXT_COLUMNS = ("input", "context")
SYSTEM_COLUMNS = ("system", "system_prompt")
SIGNALS: dict[str, Callable[[Any], FeedbackSignal]] = {
    "correction": FeedbackSignal.user_correction,
    "success": FeedbackSignal.success,
    "failure": FeedbackSignal.failure,
    "preference": FeedbackSignal.preference,
    "critique": FeedbackSignal.critique,
}
FEEDBACK_HINT = f'Give "prompt", "answer" and one of {", ".join(SIGNALS)}, or "chosen" and "rejected".'
_TOOL_COLUMNS = ("tools", "functions")


@dataclass(frozen=True, slots=True)
class RowFormat:
    """A format: the columns that a row of it has, those that it may have, and how it is converted."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    parse: Callable[[Columns], Sequence[Value]]

    def fits(self, row: Columns) -> bool:
        """Whether a row has all columns that this format requires."""
        return all(column in row for column in self.required)

    def list_ignored(self, row: Columns) -> list[str]:
        """The columns of a row that this format does not read."""
        return [column for column in row if column not in self.required + self.optional]


# --- rows to learn as they are --------------------------------------------------------------------


def _parse_messages(row: Columns) -> list[TrainingExample]:
    _refuse_tools(row)
    return split_conversation(row["messages"], row.get("weight", 1.0))


def _parse_sharegpt(row: Columns) -> list[TrainingExample]:
    _refuse_tools(row)
    turns = row["conversations"]
    if not isinstance(turns, list):
        raise InvalidExample('"conversations" is not a list of turns.', hint=SHAPES_HINT)
    return split_conversation(_system_turns(row) + rename_speakers(turns), row.get("weight", 1.0))


def _parse_alpaca(row: Columns, answer: str) -> list[TrainingExample]:
    """Alpaca's row; earlier rounds in `history`, as LLaMA-Factory reads it, are learned too."""
    text = _join_context(row, "instruction")
    turns = _system_turns(row)
    for round_ in row.get("history") or []:
        if not isinstance(round_, list) or len(round_) != 2:
            raise InvalidExample(
                "The history has an item that is not a question and its answer.",
                hint='Like: "history": [["Hi", "Hello"]].',
            )
        turns += [{"role": r, "content": t} for r, t in zip(("user", "assistant"), round_, strict=True)]
    if not turns:
        return [TrainingExample(text, parse_output(row[answer]), row.get("weight", 1.0))]
    turns += [
        {"role": "user", "content": text},
        {"role": "assistant", "content": parse_output(row[answer])},
    ]
    return split_conversation(turns, row.get("weight", 1.0))


def _parse_pair_of_columns(row: Columns, prompt: str, answer: str) -> list[TrainingExample]:
    _refuse_tools(row)
    output = parse_output(row[answer])
    return [TrainingExample(_read_prompt(row, prompt), output, row.get("weight", 1.0))]


def _parse_text(row: Columns) -> list[TrainingExample]:
    text = row["text"]
    turns = split_transcript(text) if isinstance(text, str) else None
    if turns is None:
        raise InvalidExample(
            "The row is one plain text, without a prompt and its answer.",
            hint='An adapter learns answers to prompts: split it into "prompt" and "completion".',
        )
    return split_conversation(turns, row.get("weight", 1.0))


# --- rows that judge answers ----------------------------------------------------------------------


def _parse_openai_pair(row: Columns) -> list[RecordedFeedback]:
    conversation = row["input"]
    if not isinstance(conversation, Mapping) or "messages" not in conversation:
        raise InvalidExample(
            'The pair\'s "input" has no "messages".',
            hint='Give "input" with "messages", "preferred_output" and "non_preferred_output".',
        )
    _refuse_tools(conversation)
    outputs = (parse_output(row[key]) for key in ("preferred_output", "non_preferred_output"))
    return [_make_pair(row, parse_prompt(conversation["messages"]), *outputs)]


def _parse_pair(row: Columns, prompt: str) -> list[RecordedFeedback]:
    chosen, rejected = row["chosen"], row["rejected"]
    if any(isinstance(value, list) and len(value) > 1 for value in (chosen, rejected)):
        return _parse_implicit_pair(row)  # both are whole conversations, with the prompt in them
    answers = [parse_output(_rename_answer(value)) for value in (chosen, rejected)]
    return [_make_pair(row, _read_prompt(row, prompt), *answers)]


def _parse_sharegpt_pair(row: Columns) -> list[RecordedFeedback]:
    turns = row["conversations"]
    if not isinstance(turns, list):
        raise InvalidExample('"conversations" is not a list of turns.', hint=SHAPES_HINT)
    prompt = parse_prompt(_system_turns(row) + rename_speakers(turns))
    answers = [parse_output(_rename_answer(row[key])) for key in ("chosen", "rejected")]
    return [_make_pair(row, prompt, *answers)]


def _parse_implicit_pair(row: Columns) -> list[RecordedFeedback]:
    return [_make_pair(row, *split_pair(row["chosen"], row["rejected"]))]


def _parse_label(row: Columns) -> list[RecordedFeedback]:
    label = row["label"]
    if not isinstance(label, bool):
        raise InvalidExample(
            f"The label is {str(label)[:80]!r}.",
            hint="A label says whether the completion is good: true or false.",
        )
    signal = FeedbackSignal.success() if label else FeedbackSignal.failure()
    answer = parse_output(row["completion"])
    return [
        RecordedFeedback(parse_prompt(row["prompt"]), answer, signal, row.get("user"), row.get("key"))
    ]


def _parse_judgement(row: Columns) -> list[RecordedFeedback]:
    names = [name for name in SIGNALS if name in row]
    if len(names) != 1:
        raise InvalidExample(
            f"The feedback has not exactly one signal but {' and '.join(names)}.", hint=FEEDBACK_HINT
        )
    signal = SIGNALS[names[0]](row[names[0]])
    prompt, answer = parse_prompt(row["prompt"]), row.get("answer")
    return [RecordedFeedback(prompt, answer, signal, row.get("user"), row.get("key"))]


def _make_pair(row: Columns, prompt: Prompt, chosen: str, rejected: str) -> RecordedFeedback:
    signal = FeedbackSignal.preference_pair(chosen, rejected)
    answer = row.get("answer", rejected)
    return RecordedFeedback(prompt, answer, signal, row.get("user"), row.get("key"))


# --- parts that several formats share ---------------------------------------------------------------


def _read_prompt(row: Columns, column: str) -> Prompt:
    """The prompt of a column, with the row's context and its system prompt."""
    if not isinstance(row[column], str):
        return parse_prompt(row[column])
    text = _join_context(row, column)
    turns = parse_prompt(_system_turns(row)) if _system_turns(row) else ()
    return (*to_messages(turns), Message("user", text)) if turns else text


def _join_context(row: Columns, column: str) -> str:
    """A text of a column, an empty line, and the row's context, if it has one."""
    parts = [row[column], *(row.get(name) for name in CONTEXT_COLUMNS if name != column)]
    for part in parts:
        if not isinstance(part, str | None):
            raise InvalidExample(
                f"The {column} or its context is not a text but a {type(part).__name__}.",
                hint="Give texts.",
            )
    return "\n\n".join(part for part in parts if part and part.strip()) or row[column]


def _system_turns(row: Columns) -> list[Any]:
    systems = [row[name] for name in SYSTEM_COLUMNS if row.get(name)]
    return [{"role": "system", "content": text} for text in systems]


def _rename_answer(value: object) -> object:
    """An answer as one turn of ShareGPT becomes a list of one message."""
    if isinstance(value, Mapping):
        value = [value]
    return rename_speakers(value) if isinstance(value, list) else value


def _refuse_tools(row: Columns) -> None:
    if any(row.get(column) for column in _TOOL_COLUMNS):
        raise InvalidExample(
            "The row defines tools, and calls of tools cannot be learned yet.",
            hint="Leave the row out, or write the tools into its system turn as text.",
        )


_ON_FEEDBACK = ("answer", "user", "key", *_TOOL_COLUMNS)


def _pair_format(prompt: str) -> RowFormat:
    name = "TRL pairs (prompt, chosen, rejected)" if prompt == "prompt" else f"pairs ({prompt})"
    optional = (*_ON_FEEDBACK, *CONTEXT_COLUMNS, *SYSTEM_COLUMNS)
    return RowFormat(
        name, (prompt, "chosen", "rejected"), optional, lambda row: _parse_pair(row, prompt)
    )


def _column_format(prompt: str, answer: str) -> RowFormat:
    names = {("prompt", "completion"): "TRL", ("instruction", "output"): "Alpaca"}
    name = names.get((prompt, answer), "columns")
    optional: tuple[str, ...] = ("weight", *CONTEXT_COLUMNS, *SYSTEM_COLUMNS, *_TOOL_COLUMNS)
    if prompt == "instruction":
        optional += ("history",)
        return RowFormat(
            f"{name} ({prompt}, {answer})",
            (prompt, answer),
            optional,
            lambda row: _parse_alpaca(row, answer),
        )
    return RowFormat(
        f"{name} ({prompt}, {answer})",
        (prompt, answer),
        optional,
        lambda row: _parse_pair_of_columns(row, prompt, answer),
    )


FORMATS: tuple[RowFormat, ...] = (
    RowFormat(
        "OpenAI pairs (input, preferred_output, non_preferred_output)",
        ("input", "preferred_output", "non_preferred_output"),
        _ON_FEEDBACK,
        _parse_openai_pair,
    ),
    RowFormat(
        "ShareGPT pairs (conversations, chosen, rejected)",
        ("conversations", "chosen", "rejected"),
        (*_ON_FEEDBACK, *SYSTEM_COLUMNS),
        _parse_sharegpt_pair,
    ),
    *map(_pair_format, PROMPT_COLUMNS),
    RowFormat(
        "TRL pairs with the prompt in them (chosen, rejected)",
        ("chosen", "rejected"),
        _ON_FEEDBACK,
        _parse_implicit_pair,
    ),
    RowFormat(
        "KTO (prompt, completion, label)",
        ("prompt", "completion", "label"),
        _ON_FEEDBACK,
        _parse_label,
    ),
    *(
        RowFormat(
            f"judgements ({signal})",
            ("prompt", signal),
            (*_ON_FEEDBACK, *SIGNALS),
            _parse_judgement,
        )
        for signal in SIGNALS
    ),
    RowFormat("OpenAI chat (messages)", ("messages",), ("weight", *_TOOL_COLUMNS), _parse_messages),
    RowFormat(
        "ShareGPT (conversations)",
        ("conversations",),
        ("weight", *SYSTEM_COLUMNS, *_TOOL_COLUMNS),
        _parse_sharegpt,
    ),
    *(_column_format(prompt, answer) for prompt in PROMPT_COLUMNS for answer in ANSWER_COLUMNS),
    RowFormat("text", ("text",), ("weight",), _parse_text),
)
"""Every format, the most specific one first."""

KNOWN_COLUMNS = tuple(dict.fromkeys(c for f in FORMATS for c in (*f.required, *f.optional)))


def recognize_format(row: Columns) -> RowFormat:
    """Return the format of a row. Raises `InvalidExample` if it has none, or two answers or prompts."""
    for row_format in FORMATS:
        if row_format.fits(row):
            _refuse_ambiguity(row, row_format)
            return row_format
    # No format fits. A mistyped column is the most likely reason; otherwise name what is missing.
    for column in row:
        nearest = get_close_matches(column, KNOWN_COLUMNS, n=1, cutoff=0.8)
        if nearest and nearest[0] != column:
            raise InvalidExample(f"Unknown key {column[:80]!r}.", hint=f"Did you mean {nearest[0]}?")
    if any(column in row for column in ("chosen", "rejected", "preferred_output")):
        raise InvalidExample("Only one of two answers is given.", hint=FEEDBACK_HINT)
    if any(column in row for column in SIGNALS):
        raise InvalidExample("The feedback has no prompt.", hint=FEEDBACK_HINT)
    if any(column in row for column in PROMPT_COLUMNS):
        raise InvalidExample("The example has no 'completion'.", hint=SHAPES_HINT)
    if any(column in row for column in ANSWER_COLUMNS):
        raise InvalidExample("The example has no 'prompt'.", hint=SHAPES_HINT)
    columns = ", ".join(column[:80] for column in list(row)[:10]) or "none"
    raise InvalidExample(
        f"The example has no input and no output; its keys are: {columns}.", hint=SHAPES_HINT
    )


def _refuse_ambiguity(row: Columns, row_format: RowFormat) -> None:
    """Refuse a row of columns with two prompts or two answers: only one of them would be learned."""
    if len(row_format.required) != 2 or row_format.required[1] not in ANSWER_COLUMNS:
        return
    prompts = [c for c in PROMPT_COLUMNS if c in row and c not in row_format.optional]
    prompts += ["input"] if row_format.required[0] in ("prompt",) and row.get("input") else []
    answers = [c for c in ANSWER_COLUMNS if c in row]
    for columns, noun in ((prompts, "prompts"), (answers, "answers")):
        if len(set(columns)) > 1:
            raise InvalidExample(
                f"The example mixes the keys of two formats: {' and '.join(columns)} are both {noun}.",
                hint="Leave one of them out.",
            )
