"""Read training examples, in the formats that other programs write: docs/data.md lists them."""

from typing import BinaryIO

from ouroboros.data.reader import parse_data, read_data
from ouroboros.data.sources import Source
from ouroboros.domain.data import TrainingExample


def read_examples(source: Source) -> list[TrainingExample]:
    """Read all examples of a file, a folder, several files, or a table of a Python library.

    Every turn of the assistant that answers a user is one example, with the turns before it as its
    input. A turn with `"weight": 0` is context only, as in OpenAI's format; another weight scales the
    turn's share.

    Raises:
        InvalidFile: a row is not a valid example, with the file and the line number, and with all other
            such rows; or the file cannot be read or has no examples.
        InvalidExample: the same of a Python value.
        MissingExtra: the file is Parquet, and pyarrow is not installed.
    """
    return read_data(source).examples()


def parse_examples(file: BinaryIO, name: str) -> list[TrainingExample]:
    """As `read_examples`, from an open file that errors call `name`."""
    return parse_data(file, name).examples()
