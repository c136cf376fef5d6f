"""Rows come from files, folders, standard input, and the tables of Python libraries."""

import gzip
import io
import json
import sys
from pathlib import Path

import datasets
import pandas
import pyarrow
import pytest

from ouroboros.data.examples import read_examples
from ouroboros.data.reader import read_data
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import InvalidExample, InvalidFile, InvalidInput

ROWS = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
EXAMPLES = [TrainingExample("a", "b"), TrainingExample("c", "d")]
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize(
    "make",
    [
        list,
        iter,
        datasets.Dataset.from_list,
        lambda rows: datasets.Dataset.from_list(rows).to_iterable_dataset(),
        pandas.DataFrame,
        pyarrow.Table.from_pylist,
        lambda rows: EXAMPLES,
        lambda rows: [EXAMPLES[0], rows[1]],
    ],
)
def test_each_kind_of_table_is_read(make):
    assert read_examples(make(ROWS)) == EXAMPLES


@pytest.mark.parametrize("make", [datasets.Dataset.from_list, pandas.DataFrame])
def test_values_that_a_table_fills_in_are_missing(make):
    rows = [{"messages": TURNS, "weight": 2.0}, {"messages": TURNS, "weight": None}]
    examples = [TrainingExample("Hi", "Hello", 2.0), TrainingExample("Hi", "Hello")]
    assert read_examples(make(rows)) == examples


def test_conversations_survive_parquet_and_pandas(tmp_path):
    path = tmp_path / "rows.parquet"
    pandas.DataFrame({"messages": [TURNS]}).to_parquet(path)
    assert read_examples(path) == read_examples(pandas.read_parquet(path))
    assert read_examples(path) == [TrainingExample("Hi", "Hello")]


def test_a_dataset_that_was_saved_to_disk_is_read(tmp_path):
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "set")
    assert read_examples(tmp_path / "set" / "train") == EXAMPLES
    with pytest.raises(InvalidFile, match="Its folders are train"):
        read_examples(tmp_path / "set")


def test_folders_and_several_files_are_read_in_order_of_their_names(tmp_path):
    (tmp_path / "b.jsonl").write_text(json.dumps(ROWS[1]))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"prompt,completion\na,b\n"))
    (tmp_path / "README.md").write_text("Not data.")
    (tmp_path / ".hidden.jsonl").write_text("{")
    assert read_examples(tmp_path) == EXAMPLES
    assert read_examples(str(tmp_path)) == EXAMPLES
    assert read_examples([tmp_path / "b.jsonl", tmp_path]) == [EXAMPLES[1], *EXAMPLES]


def test_a_wrong_row_of_several_files_is_named_with_its_file(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]))
    (tmp_path / "b.jsonl").write_text('{"prompt": "c", "completion": ""}')
    with pytest.raises(InvalidFile, match=r"b\.jsonl, line 1: The output is empty"):
        read_examples(tmp_path)


def test_standard_input_is_read(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"prompt\tcompletion\na\tb\nc\td\n")))
    assert read_examples(Path("-")) == EXAMPLES


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ([{"prompt": "a"}], InvalidExample, "Row 1: The example has no 'completion'"),
        ([3], InvalidExample, "Row 1: The row is not a dict but a int"),
        ([], InvalidExample, "There are no examples"),
        ({"train": []}, InvalidInput, "a dict with the keys train"),
        (3, InvalidInput, "of the type int"),
        (None, InvalidInput, "of the type NoneType"),
        (b"{}", InvalidInput, "of the type bytes"),
    ],
)
def test_what_holds_no_rows_is_refused_in_words(source, error, message):
    with pytest.raises(error, match=message):
        read_data(source).examples()
