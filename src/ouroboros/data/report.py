"""Describe what a source of rows holds: counts, duplicates, conflicts, and lengths in tokens."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from ouroboros.data.formats import Value
from ouroboros.data.reader import ParsedData
from ouroboros.domain.data import Prompt, TrainingExample, to_messages
from ouroboros.domain.errors import InvalidExample
from ouroboros.domain.feedback import FeedbackKind, RecordedFeedback

CountTokens = Callable[[Prompt, str], int]
"""Counts the tokens of a prompt and its answer; raises `InvalidExample` if they cannot be encoded."""


@dataclass(frozen=True, slots=True)
class ConflictingRows:
    """Rows that contradict each other: where they are, the end of their prompt, and their answers."""

    locations: tuple[str, ...]
    prompt: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """Lengths of examples in tokens, prompt and answer together.

    too_long   rows that exceed the context
    refused    rows that the model's chat template or tokenizer refuses, with its reason
    """

    total: int
    shortest: int
    median: int
    longest: int
    too_long: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]


def find_duplicates(data: ParsedData) -> list[tuple[str, ...]]:
    """The places of rows that hold the same, for each such group."""
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for row in data.rows:
        groups[tuple(_content_key(value) for value in row.values)].append(row.location)
    return [tuple(locations) for locations in groups.values() if len(locations) > 1]


def find_conflicts(data: ParsedData) -> list[ConflictingRows]:
    """Examples with the same prompt and different answers, and answers judged both good and bad."""
    answers: dict[Prompt, dict[str, str]] = defaultdict(dict)
    verdicts: dict[tuple[Prompt, str | None], dict[str, str]] = defaultdict(dict)
    for location, value in _iter_values(data):
        if isinstance(value, TrainingExample):
            answers[value.input].setdefault(value.output, location)
            continue
        for answer, verdict in _list_verdicts(value):
            verdicts[value.prompt, answer].setdefault(verdict, location)
    conflicts = [
        ConflictingRows(tuple(places.values()), _last_text(prompt), tuple(places))
        for prompt, places in answers.items()
        if len(places) > 1
    ]
    conflicts += [
        ConflictingRows(
            tuple(places.values()),
            _last_text(prompt),
            tuple(f"{answer!r} is {verdict}" for verdict in places),
        )
        for (prompt, answer), places in verdicts.items()
        if len(places) > 1
    ]
    return conflicts


def measure_tokens(data: ParsedData, count_tokens: CountTokens, context: int) -> TokenLengths | None:
    """Lengths of all examples and judged answers; None if there are none."""
    lengths, too_long, refused = [], [], []
    for location, value in _iter_values(data):
        try:
            length = max(count_tokens(prompt, answer) for prompt, answer in _list_texts(value))
        except InvalidExample as error:
            refused.append((location, error.message))
            continue
        lengths.append(length)
        if length > context:
            too_long.append(location)
    if not lengths:
        return None if not refused else TokenLengths(0, 0, 0, 0, (), tuple(refused))
    return TokenLengths(
        sum(lengths),
        min(lengths),
        round(median(lengths)),
        max(lengths),
        tuple(dict.fromkeys(too_long)),
        tuple(refused),
    )


def _iter_values(data: ParsedData) -> Iterator[tuple[str, Value]]:
    return ((row.location, value) for row in data.rows for value in row.values)


def _content_key(value: Value) -> Hashable:
    if isinstance(value, TrainingExample):
        return (value.input, value.output)
    return (value.prompt, value.answer, value.signal)


def _list_verdicts(judgement: RecordedFeedback) -> list[tuple[str | None, str]]:
    """The answers that a judgement calls good or bad."""
    signal = judgement.signal
    match signal.kind:
        case FeedbackKind.SUCCESS:
            return [(judgement.answer, "good")]
        case FeedbackKind.FAILURE:
            return [(judgement.answer, "bad")]
        case FeedbackKind.CORRECTION:
            return [(judgement.answer, "bad"), (signal.text, "good")]
        case FeedbackKind.PREFERENCE_PAIR:
            return [(signal.text, "good"), (signal.rejected, "bad")]
    return []


def _list_texts(value: Value) -> Sequence[tuple[Prompt, str]]:
    """The prompts with the answers that training would read."""
    if isinstance(value, TrainingExample):
        return [(value.input, value.output)]
    texts = (value.answer, value.signal.text, value.signal.rejected)
    return [(value.prompt, text) for text in texts if text is not None]


def _last_text(prompt: Prompt) -> str:
    return to_messages(prompt)[-1].content
