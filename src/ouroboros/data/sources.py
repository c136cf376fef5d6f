"""Rows of whatever holds data: files and folders, and the tables of Python libraries.

Libraries are never imported here: their tables are known by how they are iterated.
"""

import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias, runtime_checkable

from ouroboros.data.table_files import RawRow, RecordFile, open_records
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import InvalidExample, InvalidFile, InvalidInput

STDIN = Path("-")
_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
_METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files that the datasets library writes beside the data."""


@runtime_checkable
class PandasFrame(Protocol):
    """A pandas `DataFrame`: iterating it yields column names, so its rows are asked for."""

    columns: Any

    def to_dict(self, orient: Any) -> Any:
        """Returns the rows, one dictionary each, for `orient="records"`."""
        ...


@runtime_checkable
class ArrowTable(Protocol):
    """A pyarrow `Table` or `RecordBatch`."""

    def to_pylist(self) -> list[Any]:
        """Returns the rows, one dictionary each."""
        ...


@runtime_checkable
class PolarsFrame(Protocol):
    """A polars `DataFrame`."""

    def to_dicts(self) -> list[Any]:
        """Returns the rows, one dictionary each."""
        ...


@runtime_checkable
class _NumpyValue(Protocol):
    """An array or a number of numpy, which tables of libraries hold."""

    def tolist(self) -> Any: ...


Source: TypeAlias = (
    str | os.PathLike[str] | Sequence[TrainingExample] | Sequence[os.PathLike[str]] | Iterable[Any]
)
"""A file or folder, several files, examples, dicts with the columns of a known format, a Hugging Face
`Dataset`, or a frame of pandas, polars or pyarrow."""


@dataclass(frozen=True, slots=True)
class SourceRecords:
    """Rows of one file or of one value of Python, and its kind. The value has an empty name."""

    name: str
    kind: str
    records: Iterator[RawRow]


def iter_sources(source: Source) -> Iterator[SourceRecords]:
    """Yield the rows of every file of `source`, or of the one Python value that it is.

    A file is open until the next one is asked for.

    Raises:
        InvalidFile: a file cannot be read.
        InvalidInput: `source` is nothing that holds rows.
    """
    if isinstance(source, str | os.PathLike):
        yield from _iter_files([Path(source)])
    elif isinstance(source, Mapping):
        raise InvalidInput(
            f"The data is a dict with the keys {', '.join(map(str, list(source)[:5]))}.",
            hint='Give a list of dicts, one for each row, or one split: dataset["train"].',
        )
    elif isinstance(source, list | tuple) and source and isinstance(source[0], os.PathLike):
        yield from _iter_files([Path(path) for path in source if isinstance(path, os.PathLike)])
    else:
        kind = type(source).__name__
        rows = enumerate(_iter_rows(source), start=1)
        yield SourceRecords("", kind, (RawRow(f"row {n}", _clean_row(row)) for n, row in rows))


def _iter_files(paths: Sequence[Path]) -> Iterator[SourceRecords]:
    for path in chain.from_iterable(map(_expand_folder, paths)):
        with ExitStack() as stack:
            try:
                file = _open_stdin() if path == STDIN else stack.enter_context(path.open("rb"))
                name = "standard input" if path == STDIN else str(path)
                contents = open_records(file, name)
            except OSError as error:
                raise InvalidFile(
                    f"{path} cannot be read: {error.strerror}.", hint="Give a file of rows."
                ) from error
            yield SourceRecords(name, contents.kind, _clean_records(contents))


def _open_stdin() -> BinaryIO:
    if sys.stdin is None:
        raise InvalidFile("Standard input is closed.", hint="Give a file.")
    return sys.stdin.buffer


def _expand_folder(path: Path) -> list[Path]:
    """A file as it is; of a folder the files that hold rows, by name."""
    if path == STDIN or not path.is_dir():
        return [path]
    try:
        names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise InvalidFile(
            f"{path} cannot be read: {error.strerror}.", hint="Check its rights."
        ) from error
    files = [
        path / name
        for name in names
        if name.lower().removesuffix(".gz").endswith(_SUFFIXES) and name not in _METADATA
    ]
    if not files:
        folders = [name for name in names if (path / name).is_dir()][:5]
        hint = f"Its folders are {', '.join(folders)}: give one of them." if folders else ""
        raise InvalidFile(
            f"{path} cannot be read: the folder has no file of rows.",
            hint=hint or f"Their names end with {', '.join(_SUFFIXES)}, or one of these and .gz.",
        )
    return files


def _clean_records(contents: RecordFile) -> Iterator[RawRow]:
    for location, row in contents.records:
        if isinstance(row, Mapping):  # null is how JSON and Parquet write that a column has no value
            row = {column: value for column, value in row.items() if value is not None}
        yield RawRow(location, row)


def _iter_rows(source: Any) -> Iterable[Any]:
    """The rows of a Python value."""
    if isinstance(source, PolarsFrame):
        return source.to_dicts()
    if isinstance(source, ArrowTable):
        return source.to_pylist()
    if isinstance(source, PandasFrame):
        return source.to_dict("records")
    if isinstance(source, Iterable) and not isinstance(source, bytes | bytearray):
        return source
    raise InvalidInput(
        f"The data is of the type {type(source).__name__}.",
        hint="Give examples, dicts, a file, a Dataset or a data frame.",
    )


def _clean_row(row: Any) -> Mapping[str, Any] | TrainingExample | InvalidExample:
    """A row in plain values, without the columns that are empty in it."""
    if isinstance(row, TrainingExample):
        return row
    if not isinstance(row, Mapping):
        return InvalidExample(
            f"The row is not a dict but a {type(row).__name__}.",
            hint='Like: {"prompt": "Where is my parcel?", "completion": "delivery"}.',
        )
    values = {str(column): _clean_value(value) for column, value in row.items()}
    return {column: value for column, value in values.items() if value is not None}


def _clean_value(value: Any) -> Any:
    """Numpy's values as Python's; a missing value, which a data frame holds as NaN, as None."""
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {str(k): v for k, v in ((k, _clean_value(v)) for k, v in value.items()) if v is not None}
    if isinstance(value, list | tuple):
        return [_clean_value(item) for item in value]
    return _clean_value(value.tolist()) if isinstance(value, _NumpyValue) else value
