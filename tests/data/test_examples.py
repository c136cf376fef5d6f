"""Training examples are read in the formats of other programs; a mistake is reported with its line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ouroboros.data import table_files
from ouroboros.data.examples import read_examples
from ouroboros.domain.data import Message, TrainingExample
from ouroboros.domain.errors import InvalidFile

GOOD = '{"prompt": "a", "completion": "b"}'
TALK = (Message("system", "Be brief."), Message("user", "Hi"))
TURNS = [{"role": m.role, "content": m.content} for m in TALK]
DEVELOPER = {"role": "developer", "content": "Be brief."}
ANSWER = {"role": "assistant", "content": "Hello"}


@pytest.fixture
def read(tmp_path):
    path = tmp_path / "rows.jsonl"

    def write_and_read(text: str | bytes) -> list[TrainingExample]:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_examples(path)

    return write_and_read


@pytest.mark.parametrize(
    ("row", "example"),
    [
        ({"prompt": "a", "completion": "b"}, TrainingExample("a", "b")),
        ({"input": "a", "output": "b", "weight": 2}, TrainingExample("a", "b", 2)),
        ({"messages": [*TURNS, ANSWER]}, TrainingExample(TALK, "Hello")),
        ({"prompt": TURNS, "completion": [ANSWER]}, TrainingExample(TALK, "Hello")),
        ({"input": TURNS, "output": "Hello"}, TrainingExample(TALK, "Hello")),
        ({"messages": [TURNS[1], ANSWER]}, TrainingExample("Hi", "Hello")),
        ({"messages": [DEVELOPER, *TURNS[1:], ANSWER]}, TrainingExample(TALK, "Hello")),
    ],
)
def test_each_format_is_read(read, row, example):
    assert read(json.dumps(row)) == [example]


def test_every_turn_of_the_assistant_is_learned_with_the_turns_before_it(read):
    turns = [*TURNS, ANSWER, {"role": "user", "content": "Bye"}, {**ANSWER, "content": "See you"}]
    after = (*TALK, Message("assistant", "Hello"), Message("user", "Bye"))
    examples = [TrainingExample(TALK, "Hello", 2.0), TrainingExample(after, "See you", 2.0)]
    assert read(json.dumps({"messages": turns, "weight": 2.0})) == examples


def test_a_turn_of_weight_0_is_context_only(read):
    turns = [*TURNS, {**ANSWER, "weight": 0}, TURNS[1], {**ANSWER, "weight": 0.5}]
    prompt = (*TALK, Message("assistant", "Hello"), TALK[1])
    assert read(json.dumps({"messages": turns})) == [TrainingExample(prompt, "Hello", 0.5)]


def test_a_greeting_before_the_first_user_turn_is_context_only(read):
    prompt = (Message("assistant", "Hello"), TALK[1])
    assert read(json.dumps({"messages": [ANSWER, TURNS[1], ANSWER]})) == [
        TrainingExample(prompt, "Hello")
    ]


def test_contents_in_text_parts_are_joined(read):
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    row = {"messages": [{"role": "user", "content": parts}, {**ANSWER, "content": parts}]}
    assert read(json.dumps(row)) == [TrainingExample("Hello", "Hello")]


def test_a_message_of_a_developer_is_a_system_turn():
    assert Message("developer", "Be brief.") == Message("system", "Be brief.")
    TrainingExample((Message("developer", "Be brief."), Message("user", "Hi")), "Hello").check()


def test_byte_order_mark_windows_lines_and_blank_lines_do_not_matter(read):
    text = f"\ufeff{GOOD}\r\n\r\n   \n{GOOD}"
    assert read(text) == [TrainingExample("a", "b")] * 2


def test_only_newlines_end_a_line(read):
    row = {"prompt": "a\u2028b\u0085c", "completion": "d"}
    assert read(json.dumps(row, ensure_ascii=False)) == [TrainingExample("a\u2028b\u0085c", "d")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", "not JSON: .* at column 2"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "nested too deeply|not JSON"),
        ("9" * 5_000, "not JSON"),
        ("{}", "no input and no output"),
        ('{"prompt": "a"}', "no 'completion'"),
        ('{"prompt": "a", "completoin": "b"}', "Unknown key 'completoin'.*Did you mean completion"),
        ('{"prompt": "a", "completion": "b", "output": "c"}', "keys of two formats"),
        ('{"prompt": "a", "completion": ""}', "output is empty"),
        ('{"prompt": " \\n", "completion": "b"}', "input is empty"),
        ('{"prompt": 3, "completion": "b"}', "neither a text nor a list"),
        ('{"prompt": "a", "completion": 3}', "neither a text nor a list of one"),
        ('{"prompt": "a", "completion": "\\ud800"}', "lone surrogate"),
        ('{"prompt": "a", "completion": "b", "weight": 0}', "weight is 0"),
        ('{"prompt": "a", "completion": "b", "weight": NaN}', "weight is nan"),
        ('{"prompt": "a", "completion": "b", "weight": "heavy"}', "weight is 'heavy'"),
        ('{"messages": []}', "at least two turns"),
        ('{"messages": "hi"}', "at least two turns"),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}',
            "role 'user'",
        ),
        (
            '{"messages": [{"role": "user"}, {"role": "assistant", "content": "b"}]}',
            "keys role and content",
        ),
        (
            '{"messages": [{"role": "user", "content": "a"},'
            ' {"role": "assistant", "content": "b", "weight": 0}]}',
            "No turn of the assistant has a weight over 0",
        ),
        (
            '{"messages": [{"role": "user", "content": "a"},'
            ' {"role": "assistant", "content": "b", "weight": -1}]}',
            "weight of a turn is -1",
        ),
        (
            '{"messages": [{"role": "user", "content": [{"type": "image_url"}]},'
            ' {"role": "assistant", "content": "b"}]}',
            "part of the type 'image_url'",
        ),
        ('{"prompt": [{"role": "robot", "content": "a"}], "completion": "c"}', "known role"),
    ],
)
def test_a_mistake_is_reported_with_file_and_line(read, line, message):
    with pytest.raises(InvalidFile, match=rf"(?s)rows\.jsonl, line 3: .*({message})"):
        read(f"{GOOD}\n\n{line}\n{GOOD}\n")


def test_bytes_that_are_not_utf8_are_reported_by_line(read):
    with pytest.raises(InvalidFile, match="line 2: The line is not UTF-8"):
        read(GOOD.encode() + b'\n{"prompt": "\xff"}')


def test_an_overlong_line_is_refused_before_it_is_read_whole(read, monkeypatch):
    monkeypatch.setattr(table_files, "MAX_LINE", 1 << 10)
    with pytest.raises(InvalidFile, match="line 2 is longer"):
        read(GOOD + "\n" + "x" * (1 << 12))


@pytest.mark.parametrize("text", ["", "\n \n", "\ufeff"])
def test_a_file_without_examples_is_refused(read, text):
    with pytest.raises(InvalidFile, match="has no examples"):
        read(text)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(InvalidFile, match="cannot be read"):
        read_examples(tmp_path / "absent")
    with pytest.raises(InvalidFile, match="cannot be read"):
        read_examples(tmp_path)


_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(_text, _text), min_size=1, max_size=5), st.booleans())
def test_json_lines_are_read_back_as_written(tmp_path_factory, pairs, ascii):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [json.dumps({"input": i, "output": o}, ensure_ascii=ascii) for i, o in pairs]
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    assert [(e.input, e.output) for e in read_examples(path)] == pairs
