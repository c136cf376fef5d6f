"""A file's kind is recognised by its content; all wrong rows are listed with their lines."""

import csv
import gzip
import io
import json
import sys

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ouroboros.data import table_files
from ouroboros.data.examples import parse_examples, read_examples
from ouroboros.data.reader import read_data
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import InvalidFile, MissingExtra

ROWS = [{"prompt": f"p{n}, \u00e9\nx", "completion": f'"c{n}"'} for n in range(3)]
EXAMPLES = [TrainingExample(row["prompt"], row["completion"]) for row in ROWS]


def write_csv(separator: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["prompt", "completion"], delimiter=separator)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


def write_parquet() -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
    return file.getvalue()


def write_arrow(open_writer) -> bytes:
    table, file = pyarrow.Table.from_pylist(ROWS), io.BytesIO()
    with open_writer(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


FILES = {
    "JSON lines": "\n".join(map(json.dumps, ROWS)).encode(),
    "JSON array": json.dumps(ROWS, indent=2).encode(),
    "CSV": b"\xef\xbb\xbf" + write_csv(","),
    "TSV": write_csv("\t"),
    "CSV with semicolons": write_csv(";"),
    "Parquet": write_parquet(),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("compress", [bytes, gzip.compress, lambda d: gzip.compress(gzip.compress(d))])
def test_each_kind_is_recognised_whatever_the_file_is_called(tmp_path, kind, compress):
    path = tmp_path / "rows.txt"
    path.write_bytes(compress(FILES[kind]))
    data = read_data(path)
    assert data.examples() == EXAMPLES
    assert [name.split(",")[0] for name in data.kinds] == [kind]


@pytest.mark.parametrize("open_writer", [pyarrow.ipc.new_stream, pyarrow.ipc.new_file])
def test_arrow_files_are_read(tmp_path, open_writer):
    path = tmp_path / "data.arrow"
    path.write_bytes(write_arrow(open_writer))
    assert read_examples(path) == EXAMPLES


@pytest.mark.parametrize("document", [{"data": ROWS}, {"version": "1", "train": ROWS}])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_object_that_holds_the_rows_is_read(document, indent):
    assert parse_examples(io.BytesIO(json.dumps(document, indent=indent).encode()), "f") == EXAMPLES


def test_one_row_can_span_the_whole_file():
    assert parse_examples(io.BytesIO(json.dumps(ROWS[0], indent=2).encode()), "f") == EXAMPLES[:1]


def test_a_file_written_with_capital_headers_and_empty_cells_is_read():
    text = b'"Instruction","Input","Output","Weight"\nTranslate.,Bonjour,Hello,2\nSay hi.,,Hello,\n'
    assert parse_examples(io.BytesIO(text), "f") == [
        TrainingExample("Translate.\n\nBonjour", "Hello", 2.0),
        TrainingExample("Say hi.", "Hello"),
    ]


def test_conversations_in_cells_are_read():
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    text = io.StringIO()
    csv.writer(text).writerows([["messages", "id"], [json.dumps(turns), "1"]])
    data = io.BytesIO(text.getvalue().encode())
    assert parse_examples(data, "f") == [TrainingExample("Hi", "Hello")]


def test_all_wrong_rows_are_listed_and_none_is_taken(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(ROWS[0])] + ['{"prompt": "a", "completion": ""}', "{oops"] * 15
    path.write_text("\n".join(lines))
    with pytest.raises(InvalidFile, match="has 30 wrong rows of 31, and none was taken") as caught:
        read_examples(path)
    assert caught.value.details[0] == "line 2: The output is empty."
    assert caught.value.details[1].startswith("line 3: The line is not JSON")
    assert len(caught.value.details) == 21
    assert caught.value.details[-1] == "and 10 more"


def test_a_first_line_that_is_not_json_is_one_wrong_row_among_others():
    lines = ['{"prompt": ', json.dumps(ROWS[0]), "{}"]
    with pytest.raises(InvalidFile, match="2 wrong rows of 3") as caught:
        parse_examples(io.BytesIO("\n".join(lines).encode()), "f")
    assert [detail.split(":")[0] for detail in caught.value.details] == ["line 1", "line 3"]


def test_a_reason_that_all_rows_share_is_given_once():
    rows = b'{"sentence": "a", "label": 1}\n' * 7
    with pytest.raises(InvalidFile, match=r"keys are: sentence, label.*all 7 rows of f") as caught:
        parse_examples(io.BytesIO(rows), "f")
    assert caught.value.details == ()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04rest", "a zip archive or an Excel workbook"),
        (b"(\xb5/\xfdrest", "zstd"),
        ("prompt,completion\n".encode("utf-16"), "UTF-16"),
        (gzip.compress(FILES["JSON lines"])[:-9], "damaged gzip"),
        (gzip.compress(FILES["JSON lines"])[:20] + b"x" * 30, "damaged gzip"),
        (FILES["Parquet"][:-40], "cannot be read as a table"),
        (FILES["Parquet"][:100] + b"\xff" * 50 + FILES["Parquet"][150:], "cannot be read|not UTF-8"),
        (b"\xff\xff\xff\xff\x10\x00\x00\x00junk", "cannot be read as a table"),
        (b'[{"prompt": "a", "completion": "b"}, 3]', "row 2: The item is not a JSON object"),
        (b'[{"prompt": "a", "completion": "b"}', "row 2: The item is not JSON"),
        (b'[{"prompt": "a", "completion": "b"}, {"prompt"', "row 2: The item is not JSON"),
        (b"[]", "has no examples"),
        (b"[" * 100_000, "nested too deeply|not JSON"),
        (b"prompt,completion,prompt\na,b,c", "two columns called 'prompt'"),
        (b"prompt,completion\na,b\nc\n", "line 3: The row has 1 cells and the header 2"),
        (b'prompt,completion\na,b\n"c,d\ne', "line 3: Not CSV"),
        (b"prompt,completion\na,b\nc,\xff\n", "line 3: Line 3 is not UTF-8"),
        (b"prompt,completion\na,\n", "line 2: The output is empty"),
        (b"prompt,completion\n", "has no examples"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_in_words(data, message):
    with pytest.raises(InvalidFile, match=message):
        parse_examples(io.BytesIO(data), "f")


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_decompresses_without_end_is_refused(monkeypatch, kind):
    monkeypatch.setattr(table_files, "MAX_DATA", 50)
    with pytest.raises(InvalidFile, match="holds more than"):
        parse_examples(io.BytesIO(gzip.compress(FILES[kind])), "f")


def test_parquet_names_the_extra_that_reads_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"ouroboros-learning\[data\]"):
        parse_examples(io.BytesIO(FILES["Parquet"]), "f")


_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
_rows = st.lists(st.tuples(_texts.filter(str.strip), _texts.filter(str.strip)), min_size=1, max_size=5)


@given(_rows, st.integers(1, 40))
def test_arrays_are_read_back_whatever_the_chunks(rows, chunk):
    text = json.dumps([{"prompt": p, "completion": c} for p, c in rows], ensure_ascii=False, indent=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_files, "_CHUNK", chunk)
        records = table_files._iter_array(io.BufferedReader(io.BytesIO(text.encode())), "f")
        values = [tuple(r.row.values()) for r in records if isinstance(r.row, dict)]
    assert values == rows


@given(_rows)
def test_tables_are_read_back_as_written(rows):
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("prompt", "completion"), *rows])
    examples = parse_examples(io.BytesIO(text.getvalue().encode()), "f")
    assert [(e.input, e.output) for e in examples] == rows


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_by_name(data):
    try:
        parse_examples(io.BytesIO(data), "f")
    except InvalidFile as error:
        assert error.hint
