"""Read rows of any known format from any source, all of them or none."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import BinaryIO, TypeVar

from ouroboros.data.conversations import SHAPES_HINT
from ouroboros.data.formats import FEEDBACK_HINT, SIGNALS, Value, recognize_format
from ouroboros.data.sources import Source, SourceRecords, iter_sources
from ouroboros.data.table_files import RawRow, open_records
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import InvalidExample, InvalidFile
from ouroboros.domain.feedback import FeedbackKind, RecordedFeedback

T = TypeVar("T")

_SHOWN = 20
"""Wrong rows that an error lists."""


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """A row that was understood: where it is, and the examples or the judgement that it holds."""

    location: str
    format: str
    values: tuple[Value, ...]
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that cannot be learned from: where it is, why, and what to do."""

    location: str
    reason: str
    hint: str

    def __str__(self) -> str:
        return f"{self.location}: {self.reason}"


@dataclass(slots=True)
class ParsedData:
    """What was understood of a source.

    names    the files, or nothing for a value of Python
    kinds    rows by the kind of their file: "JSON lines, gzip"
    rows     the rows that were understood, in order
    refused  the rows that were not
    ignored  columns that no format reads, and how many rows have them
    """

    names: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    rows: list[ParsedRow] = field(default_factory=list)
    refused: list[RefusedRow] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    @property
    def formats(self) -> Counter[str]:
        """The number of rows of each format."""
        return Counter(row.format for row in self.rows)

    @property
    def name(self) -> str:
        """What the rows are from, for errors; empty for a value of Python."""
        return ", ".join(self.names[:3]) + (" ..." if len(self.names) > 3 else "")

    def examples(self) -> list[TrainingExample]:
        """All examples. Raises `InvalidFile` or `InvalidExample` if a row was refused or is none."""
        return self._select(_as_example, f"examples. {SHAPES_HINT}")

    def feedback(self) -> list[RecordedFeedback]:
        """All judgements. Raises as `examples` does."""
        return self._select(_as_feedback, f"feedback. {FEEDBACK_HINT}")

    def pairs(self) -> list[RecordedFeedback]:
        """All pairs of a preferred and another answer. Raises as `examples` does."""
        return self._select(_as_pair, f"pairs. {FEEDBACK_HINT}")

    def _select(self, convert: Callable[[ParsedRow, Value], T], contents: str) -> list[T]:
        """Convert every value, and raise one error that lists all rows for which that is impossible."""
        values, refused = [], list(self.refused)
        for row in self.rows:
            try:
                values += [convert(row, value) for value in row.values]
            except InvalidExample as error:
                refused.append(RefusedRow(row.location, error.message, error.hint))
        if refused:
            self._raise_refused(refused)
        if not values:
            noun, _, hint = contents.partition(". ")
            kind = InvalidFile if self.names else InvalidExample
            subject = f"{self.name} has" if self.names else "There are"
            raise kind(f"{subject} no {noun}.", hint=hint)
        return values

    def _raise_refused(self, refused: list[RefusedRow]) -> None:
        kind = InvalidFile if self.names else InvalidExample
        first, count = refused[0], len(refused)
        where = f"{first.location[0].upper()}{first.location[1:]}"
        if len(self.names) == 1:
            where = f"{self.name}, {first.location}"
        if count == 1:
            raise kind(f"{where}: {first.reason}", hint=first.hint)
        total = sum(self.kinds.values())
        subject = self.name or "The data"
        if count == total and len({row.reason for row in refused}) == 1:
            raise kind(
                f"{where}: {first.reason} So it is with all {count:,} rows of {subject}.",
                hint=first.hint,
            )
        more = [f"and {count - _SHOWN:,} more"] if count > _SHOWN else []
        raise kind(
            f"{subject} has {count:,} wrong rows of {total:,}, and none was taken. "
            f"{where}: {first.reason}",
            hint=first.hint,
            details=(*map(str, refused[:_SHOWN]), *more),
        )


def read_data(source: Source) -> ParsedData:
    """Read every row of a source, in whichever format each is, and collect what cannot be learned from.

    Raises:
        InvalidFile: a file cannot be read, or not as rows.
        InvalidInput: `source` is nothing that holds rows.
        MissingExtra: a file needs a library that is not installed.
    """
    data = ParsedData()
    for records in iter_sources(source):
        _parse_records(records, data)
    return data


def parse_data(file: BinaryIO, name: str) -> ParsedData:
    """As `read_data`, from an open file that errors call `name`."""
    data, contents = ParsedData(), open_records(file, name)
    _parse_records(SourceRecords(name, contents.kind, contents.records), data)
    return data


def _parse_records(source: SourceRecords, data: ParsedData) -> None:
    prefix = f"{source.name}, " if data.names else ""
    if source.name:
        data.names.append(source.name)
    for record in source.records:
        data.kinds[source.kind] += 1
        _parse_record(record, f"{prefix}{record.location}", data)


def _parse_record(record: RawRow, location: str, data: ParsedData) -> None:
    try:
        if isinstance(record.row, InvalidExample):
            raise record.row
        if isinstance(record.row, TrainingExample):
            record.row.check()
            data.rows.append(ParsedRow(location, "TrainingExample", (record.row,)))
            return
        row_format = recognize_format(record.row)
        values = tuple(row_format.parse(record.row))
        for value in values:
            value.check()
    except InvalidExample as error:
        data.refused.append(RefusedRow(location, error.message, error.hint))
        return
    ignored = row_format.list_ignored(record.row)
    data.rows.append(ParsedRow(location, row_format.name, values, tuple(ignored)))
    data.ignored.update(ignored)


def _as_example(row: ParsedRow, value: Value) -> TrainingExample:
    if isinstance(value, TrainingExample):
        return value
    raise InvalidExample(
        "The row judges an answer, and `train` learns answers as they are.",
        hint="Teach judgements and pairs with: ouroboros feedback NAME --file FILE",
    )


def _as_feedback(row: ParsedRow, value: Value) -> RecordedFeedback:
    if isinstance(value, RecordedFeedback):
        return value
    for column in row.ignored:
        nearest = get_close_matches(column, SIGNALS, n=1, cutoff=0.8)
        if nearest:
            raise InvalidExample(f"Unknown key {column[:80]!r}.", hint=f"Did you mean {nearest[0]}?")
    raise InvalidExample(
        "The feedback has not exactly one signal: nothing says how good the answer is.",
        hint=FEEDBACK_HINT,
    )


def _as_pair(row: ParsedRow, value: Value) -> RecordedFeedback:
    if isinstance(value, RecordedFeedback) and value.signal.kind is FeedbackKind.PREFERENCE_PAIR:
        return value
    raise InvalidExample("The row is not a pair of a preferred and another answer.", hint=FEEDBACK_HINT)


def describe_ignored(ignored: Iterable[str]) -> str:
    """A sentence that names the columns that were not read."""
    names = [name[:80] for name in ignored]
    return f"Ignored columns: {', '.join(names[:20])}{' ...' if len(names) > 20 else ''}."
