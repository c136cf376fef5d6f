"""Recorded feedback is read from JSON lines, and each mistake is reported with its line."""

import json

import pytest

from ouroboros.data.feedback import RecordedFeedback, read_feedback
from ouroboros.domain.errors import InvalidFile
from ouroboros.domain.feedback import FeedbackSignal


@pytest.mark.parametrize(
    ("signal", "expected"),
    [
        ({"correction": "b"}, FeedbackSignal.user_correction("b")),
        ({"success": 0.5}, FeedbackSignal.success(0.5)),
        ({"failure": -0.5}, FeedbackSignal.failure(-0.5)),
        ({"preference": 0.7}, FeedbackSignal.preference(0.7)),
        ({"critique": "too long"}, FeedbackSignal.critique("too long")),
        ({"chosen": "b", "rejected": "c"}, FeedbackSignal.preference_pair("b", "c")),
    ],
)
def test_each_signal_is_read(tmp_path, signal, expected):
    path = tmp_path / "feedback.jsonl"
    path.write_text(json.dumps({"prompt": "p", "answer": "a", **signal, "user": "ann", "key": "k"}))
    assert read_feedback(path) == [RecordedFeedback("p", "a", expected, "ann", "k")]


def test_a_pair_without_an_answer_is_about_the_rejected_one(tmp_path):
    path = tmp_path / "feedback.jsonl"
    path.write_text('{"prompt": "p", "chosen": "b", "rejected": "c"}')
    assert read_feedback(path)[0].answer == "c"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "a", "success": 1}, "no prompt"),
        ({"prompt": "p", "answer": "a"}, "not exactly one signal"),
        ({"prompt": "p", "answer": "a", "success": 1, "failure": -1}, "not exactly one signal"),
        ({"prompt": "p", "answer": "a", "sucess": 1}, "Unknown key 'sucess'.*Did you mean success"),
    ],
)
def test_a_mistake_is_reported_with_file_and_line(tmp_path, row, message):
    path = tmp_path / "feedback.jsonl"
    path.write_text(f"\n{json.dumps(row)}\n")
    with pytest.raises(InvalidFile, match=rf"(?s)feedback\.jsonl, line 2: .*{message}"):
        read_feedback(path)


def test_a_file_without_feedback_is_refused(tmp_path):
    path = tmp_path / "feedback.jsonl"
    path.write_text("\n")
    with pytest.raises(InvalidFile, match="has no feedback"):
        read_feedback(path)


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"prompt": "p", "chosen": "hi", "rejected": ""}, ""),
        ({"prompt": "p", "answer": "", "correction": "hi"}, ""),
        ({"prompt": "p", "answer": "", "failure": -1}, ""),
    ],
)
def test_an_empty_answer_can_be_judged(tmp_path, row, answer):
    path = tmp_path / "feedback.jsonl"
    path.write_text(json.dumps(row))
    assert [f.answer for f in read_feedback(path)] == [answer]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "chosen": "hi"}, "Only one of two answers"),
        ({"prompt": "p", "success": 1}, "answer is empty"),
        ({"prompt": "p", "chosen": ["hi"], "rejected": ""}, "keys role and content, both texts"),
        ({"prompt": "p", "answer": "a", "success": 1, "user": 17}, "user is not a text but a int"),
    ],
)
def test_a_missing_or_mistyped_answer_is_named(tmp_path, row, message):
    path = tmp_path / "feedback.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(InvalidFile, match=message):
        read_feedback(path)
