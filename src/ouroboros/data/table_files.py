"""Read the rows of a file of any kind: JSON lines or array, CSV, TSV, Parquet, Arrow, or gzip of it.

The first bytes tell the kind, not the name. Rows come one after the other, each with its line or number.
A row that cannot be read comes as the error that says why, so that a caller can list all of them.
"""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, NamedTuple

from ouroboros.data.formats import ANSWER_COLUMNS, FORMATS, KNOWN_COLUMNS, PROMPT_COLUMNS, SIGNALS
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import InvalidExample, InvalidFile, MissingExtra
from ouroboros.domain.limits import MAX_DATA, MAX_LINE

_BOM = codecs.BOM_UTF8
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SEPARATORS = {",": "CSV", "\t": "TSV", ";": "CSV with semicolons"}
_CHUNK = 1 << 20
_KINDS = "JSON lines, a JSON array, CSV, TSV or Parquet, each also in gzip"
_LISTS = ("data", "train", "rows", "examples", "conversations")
"""Keys under which a JSON object holds all rows of a file."""

_FOREIGN = {
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"(\xb5/\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"SQLite format 3": "a SQLite database",
    b"%PDF": "a PDF document",
}


class RawRow(NamedTuple):
    """Where a row is in its source, and its columns or what is wrong with it."""

    location: str
    row: Mapping[str, Any] | TrainingExample | InvalidExample


@dataclass(frozen=True, slots=True)
class RecordFile:
    """An open file: its kind in words, and its rows, read as they are asked for."""

    kind: str
    records: Iterator[RawRow]


class _BoundedReader(io.RawIOBase):
    """Passes bytes on, up to `MAX_DATA`: a small gzip file can hold any number."""

    def __init__(self, file: BinaryIO | io.BufferedIOBase, name: str) -> None:
        self._file, self._name, self._read = file, name, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(min(len(buffer), _CHUNK))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InvalidFile(
                f"{self._name} is a damaged gzip file: {error}.", hint="Copy or download it again."
            ) from None
        self._read += len(data)
        if self._read > MAX_DATA:
            raise InvalidFile(
                f"{self._name} holds more than {MAX_DATA // 2**20:,} MiB.",
                hint="Split it into several files.",
            )
        buffer[: len(data)] = data
        return len(data)


def open_records(file: BinaryIO, name: str) -> RecordFile:
    """Recognise the kind of an open file, which errors call `name`.

    Raises:
        InvalidFile: the file is of another kind, damaged or too large.
        MissingExtra: it is Parquet or Arrow, and pyarrow is not installed.
    """
    stream = io.BufferedReader(_BoundedReader(file, name), _CHUNK)
    # Some files are compressed twice, by a program and by a server.
    wrapped = ""
    while stream.peek(2)[:2] == b"\x1f\x8b":
        if wrapped.count("gzip") > 1:
            raise InvalidFile(f"{name} is gzip in gzip in gzip.", hint="Decompress it first.")
        wrapped += ", gzip"
        stream = io.BufferedReader(_BoundedReader(gzip.GzipFile(fileobj=stream), name), _CHUNK)
    head = stream.peek(_CHUNK)
    kind, records = _choose_reader(stream, head, name)
    return RecordFile(kind + wrapped, records)


def _choose_reader(
    stream: "io.BufferedReader[Any]", head: bytes, name: str
) -> tuple[str, Iterator[RawRow]]:
    if head[:4] == b"PAR1":
        return "Parquet", _iter_parquet(stream.read(), name)
    if head[:6] == b"ARROW1" or head[:4] == b"\xff\xff\xff\xff":
        return "Arrow", _iter_arrow(stream.read(), name)
    for magic, kind in _FOREIGN.items():
        if head.startswith(magic):
            raise InvalidFile(f"{name} is {kind}.", hint=f"Give {_KINDS}.")
    if head.startswith(_UTF16):
        raise InvalidFile(f"{name} is UTF-16 text.", hint="Save it as UTF-8.")
    text = head.removeprefix(_BOM).lstrip()
    if text.startswith(b"["):
        return "JSON array", _iter_array(stream, name)
    separator = None if text.startswith(b"{") else _find_separator(text)
    if separator:
        return _SEPARATORS[separator], _iter_csv(stream, separator, name)
    return "JSON lines", _iter_lines(stream, name)


# --- JSON ------------------------------------------------------------------------------------------


def _iter_lines(stream: io.BufferedReader, name: str) -> Iterator[RawRow]:
    """The objects of JSON lines, by line; or the rows of one JSON object that spans the whole file."""
    first = True
    for number, line in _number_lines(stream, name):
        row = _parse_object(line)
        if first and isinstance(row, InvalidExample) and line.lstrip().startswith(b"{"):
            rest = stream.read(MAX_LINE)
            document = _parse_object(line + rest)
            if isinstance(document, dict):
                yield from _iter_document(document)
                return
            # It is no document: the rest of it is lines, as the first one was.
            yield RawRow(f"line {number}", row)
            tail = stream.readline(MAX_LINE) if rest else b""
            lines = chain(io.BytesIO(rest + tail), iter(lambda: stream.readline(MAX_LINE + 1), b""))
            for later, text in _number_lines(lines, name, number):
                yield RawRow(f"line {later}", _parse_object(text))
            return
        if first and isinstance(row, dict) and _find_list(row) and not _is_row(row):
            yield from _iter_document(row)
        else:
            yield RawRow(f"line {number}", row)
        first = False


def _number_lines(
    lines: io.BufferedReader | Iterable[bytes], name: str, number: int = 0
) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, numbered, without a byte order mark."""
    if isinstance(lines, io.BufferedReader):
        stream = lines
        lines = iter(lambda: stream.readline(MAX_LINE + 1), b"")
    for line in lines:
        number += 1
        if len(line) > MAX_LINE:
            raise InvalidFile(
                f"{name}, line {number} is longer than {MAX_LINE // 2**20} MiB.",
                hint="Check that the file has one JSON object a line.",
            )
        line = line.removeprefix(_BOM) if number == 1 else line
        if line.strip():
            yield number, line


def _is_row(row: Mapping[str, Any]) -> bool:
    return any(row_format.fits(row) for row_format in FORMATS)


def _find_list(document: Mapping[str, Any]) -> str | None:
    """The key of a document whose value is its list of rows, if it has no other lists."""
    keys = [k for k in _LISTS if isinstance(document.get(k), list) and document[k]]
    is_list = len(keys) == 1 and all(isinstance(item, dict) for item in document[keys[0]])
    # A row of ShareGPT is an object with the key conversations too: its items are turns.
    return (
        keys[0] if is_list and not any("from" in i or "role" in i for i in document[keys[0]]) else None
    )


def _iter_document(document: Mapping[str, Any]) -> Iterator[RawRow]:
    key = _find_list(document)
    rows = [document] if key is None else document[key]
    yield from (RawRow(f"row {number}", row) for number, row in enumerate(rows, start=1))


def _parse_object(line: bytes) -> dict[str, Any] | InvalidExample:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return InvalidExample("The line is not UTF-8.", hint="Save the file as UTF-8.")
    except (ValueError, RecursionError) as error:
        return _explain_json(error, "line", "Write one JSON object a line.")
    if not isinstance(row, dict):
        return InvalidExample("The line is not a JSON object.", hint="Write one JSON object a line.")
    return row


def _explain_json(error: Exception, noun: str, hint: str) -> InvalidExample:
    is_syntax = isinstance(error, json.JSONDecodeError)
    problem = error.msg if is_syntax else "it is nested too deeply, or a number is too long"
    column = f" at column {error.colno}" if is_syntax and noun == "line" else ""
    return InvalidExample(f"The {noun} is not JSON: {problem}{column}.", hint=hint)


_SPACE = re.compile(r"[ \t\n\r]*")


def _iter_array(stream: io.BufferedReader, name: str) -> Iterator[RawRow]:
    """The items of a JSON array, decoded one by one, so that a large file needs little memory."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    decoder, number, step = json.JSONDecoder(), 0, _CHUNK
    buffer = _read_text(text, step, name)
    position = buffer.index("[") + 1
    while True:
        # 1. Find the next item, behind white space and a comma. The last one is followed by a bracket.
        position = _skip_space(buffer, position)
        if position == len(buffer):
            buffer, position = _read_text(text, step, name), 0
            if buffer:
                continue
        mark = buffer[position : position + 1]
        if mark == "]":
            return
        if mark == "," and number:
            position = _skip_space(buffer, position + 1)
        # 2. Decode it. If it is not complete, read on, twice as much each time.
        try:
            item, position = decoder.raw_decode(buffer, position)
        except (ValueError, RecursionError) as error:
            more = _read_text(text, step, name) if len(buffer) - position <= MAX_LINE else ""
            if more:
                lead = "," if mark == "," and number else ""
                buffer, position, step = lead + buffer[position:] + more, 0, 2 * step
                continue
            row = _explain_json(error, "item", "Check that the file is a JSON array of objects.")
            yield RawRow(f"row {number + 1}", row)
            return
        number, step = number + 1, _CHUNK
        problem = InvalidExample("The item is not a JSON object.", hint="Give a list of objects.")
        yield RawRow(f"row {number}", item if isinstance(item, dict) else problem)


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _read_text(text: io.TextIOWrapper, size: int, name: str) -> str:
    try:
        return text.read(size)
    except UnicodeDecodeError:
        raise InvalidFile(f"{name} is not UTF-8.", hint="Save the file as UTF-8.") from None


# --- CSV -------------------------------------------------------------------------------------------


def _find_separator(head: bytes) -> str | None:
    """The separator with which the first line has a known column; None if it is no header."""
    first = head.split(b"\n", 1)[0].decode("utf-8", "replace").strip()
    names = {s: {_clean_header(c) for c in first.split(s)} for s in _SEPARATORS}
    known = {s: len(columns & set(KNOWN_COLUMNS)) for s, columns in names.items()}
    best = max(known, key=lambda s: (known[s], len(names[s])))
    is_header = known[best] > 1 or bool(names[best] & _HEADER_COLUMNS)
    return best if known[best] and is_header else None


_HEADER_COLUMNS = {*PROMPT_COLUMNS, *ANSWER_COLUMNS, "text", "messages", "conversations", "chosen"}
"""Columns of which one is enough to know a header."""


def _clean_header(cell: str) -> str:
    return cell.strip().strip('"').strip().lower()


def _iter_csv(stream: io.BufferedReader, separator: str, name: str) -> Iterator[RawRow]:
    """The rows of a table, by the line on which each begins. A cell can hold line breaks in quotes."""
    lines = (_decode_line(line, number) for number, line in _iter_raw_lines(stream, name))
    old_limit = csv.field_size_limit(MAX_LINE)
    try:
        reader = csv.reader(lines, delimiter=separator, strict=True)
        header = [_clean_header(cell) for cell in next(reader)]
        repeated = {c for c in header if header.count(c) > 1}
        if repeated:
            raise InvalidFile(
                f"{name} has two columns called {repeated.pop()[:80]!r}.", hint="Rename one of them."
            )
        while True:
            location = f"line {reader.line_num + 1}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except (csv.Error, InvalidExample) as error:
                # What follows cannot be told apart from this row.
                message = error.message if isinstance(error, InvalidExample) else f"Not CSV: {error}."
                yield RawRow(
                    location, InvalidExample(message, hint="Check its quotes and its encoding.")
                )
                return
            if any(cell.strip() for cell in cells):
                yield RawRow(location, _read_cells(header, cells))
    finally:
        csv.field_size_limit(old_limit)


def _iter_raw_lines(stream: io.BufferedReader, name: str) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := stream.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise InvalidFile(
                f"{name}, line {number} is longer than {MAX_LINE // 2**20} MiB.",
                hint="Check that it is a table.",
            )
        yield number, line.removeprefix(_BOM) if number == 1 else line


def _decode_line(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidExample(f"Line {number} is not UTF-8.") from None


def _read_cells(header: list[str], cells: list[str]) -> dict[str, Any] | InvalidExample:
    if len(cells) != len(header):
        return InvalidExample(
            f"The row has {len(cells)} cells and the header {len(header)}.",
            hint="Put cells with separators or line breaks into quotes.",
        )
    row = {column: _convert_cell(column, cell) for column, cell in zip(header, cells, strict=True)}
    return {column: value for column, value in row.items() if value is not None}


def _convert_cell(column: str, cell: str) -> Any:
    """Numbers and labels as such, and conversations that a cell holds as JSON; an empty one is None."""
    is_text = column in (*PROMPT_COLUMNS, *ANSWER_COLUMNS, "chosen", "rejected", "text")
    if not cell.strip() and not (is_text and column != "input"):
        return None
    if column == "label":
        return {"true": True, "1": True, "false": False, "0": False}.get(cell.strip().lower(), cell)
    if column == "weight" or (column in SIGNALS and column not in ("correction", "critique")):
        try:
            return float(cell)
        except ValueError:
            return cell
    if cell.startswith("[") or (cell.startswith("{") and column == "input"):
        try:
            value = json.loads(cell)
        except (ValueError, RecursionError):
            return cell
        is_turns = isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
        return value if is_turns or isinstance(value, dict) else cell
    return cell


# --- Parquet and Arrow -----------------------------------------------------------------------------


def _import_pyarrow(module: str, name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        raise MissingExtra(
            f"{name} is a Parquet or Arrow file, and pyarrow is not installed here.",
            hint="Install it with: pip install 'ouroboros-learning[data]'",
        ) from None


def _iter_parquet(data: bytes, name: str) -> Iterator[RawRow]:
    pyarrow, parquet = _import_pyarrow("pyarrow", name), _import_pyarrow("pyarrow.parquet", name)
    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(data))
        size = sum(
            file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)
        )
        if size > MAX_DATA:
            raise _too_large(name)
        yield from _iter_batches(file.iter_batches(batch_size=1024), name)
    except (pyarrow.ArrowException, OSError) as error:
        raise _explain_arrow(error, name) from None


def _iter_arrow(data: bytes, name: str) -> Iterator[RawRow]:
    pyarrow, ipc = _import_pyarrow("pyarrow", name), _import_pyarrow("pyarrow.ipc", name)
    try:
        if data[:6] == b"ARROW1":
            file = ipc.open_file(data)
            batches = (file.get_batch(i) for i in range(file.num_record_batches))
        else:
            batches = iter(ipc.open_stream(data))
        yield from _iter_batches(batches, name)
    except (pyarrow.ArrowException, OSError) as error:
        raise _explain_arrow(error, name) from None


def _iter_batches(batches: Iterable[Any], name: str) -> Iterator[RawRow]:
    number = size = 0
    for batch in batches:
        size += batch.nbytes
        if size > MAX_DATA:
            raise _too_large(name)
        for row in batch.to_pylist():
            number += 1
            yield RawRow(f"row {number}", row)


def _too_large(name: str) -> InvalidFile:
    return InvalidFile(
        f"{name} holds more than {MAX_DATA // 2**20:,} MiB.", hint="Split it into several files."
    )


def _explain_arrow(error: Exception, name: str) -> InvalidFile:
    reason = " ".join(str(error).split())[:200]
    return InvalidFile(f"{name} cannot be read as a table: {reason}.", hint="Write it again.")
