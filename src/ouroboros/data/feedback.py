"""Read recorded feedback: what people thought of answers given elsewhere.

A row has a `prompt`, an `answer` and one of

    "correction": text         "success": 0..1        "failure": -1..0
    "preference": 0..1         "critique": text       "chosen": text, "rejected": text

A `user` and a `key` are optional. Feedback with `chosen` and `rejected` needs no `answer`. Pairs and
labels are also read in the forms of TRL, KTO, OpenAI and ShareGPT: docs/data.md lists them.
"""

from typing import BinaryIO

from ouroboros.data.reader import parse_data, read_data
from ouroboros.data.sources import Source
from ouroboros.domain.feedback import RecordedFeedback

__all__ = ["RecordedFeedback", "parse_pairs", "read_feedback"]


def read_feedback(source: Source) -> list[RecordedFeedback]:
    """Read all feedback of a file, a folder, several files, or a table of a Python library.

    Raises:
        InvalidFile: a row is not valid feedback, with the file and the line number, and with all other
            such rows; or the file cannot be read or has no feedback.
        InvalidExample: the same of a Python value.
        MissingExtra: the file is Parquet, and pyarrow is not installed.
    """
    return read_data(source).feedback()


def parse_pairs(file: BinaryIO, name: str) -> list[RecordedFeedback]:
    """Read pairs of answers from an open file that errors call `name`. Raises as `read_feedback`."""
    return parse_data(file, name).pairs()
