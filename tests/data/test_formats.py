"""A row is recognised by its columns, in the formats of other programs, and learned as they mean it."""

import pytest

from ouroboros.data.formats import FORMATS
from ouroboros.data.reader import read_data
from ouroboros.domain.data import Message, TrainingExample
from ouroboros.domain.errors import InvalidExample
from ouroboros.domain.feedback import FeedbackSignal, RecordedFeedback

ASK = {"role": "user", "content": "Hi"}
GOOD = {"role": "assistant", "content": "Hello"}
BAD = {"role": "assistant", "content": "Go away"}
SYSTEM = Message("system", "Be brief.")
TALK = (SYSTEM, Message("user", "Hi"))
HUMAN, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}
PAIR = RecordedFeedback("Hi", "Go away", FeedbackSignal.preference_pair("Hello", "Go away"))
TRANSCRIPT = "\n\nHuman: Hi\n\nAssistant: "


@pytest.mark.parametrize(
    ("row", "examples"),
    [
        # OpenAI
        ({"messages": [ASK, GOOD], "parallel_tool_calls": False}, [TrainingExample("Hi", "Hello")]),
        (
            {"messages": [ASK, {**GOOD, "refusal": None, "tool_calls": []}]},
            [TrainingExample("Hi", "Hello")],
        ),
        # TRL
        ({"prompt": [ASK], "completion": [GOOD]}, [TrainingExample("Hi", "Hello")]),
        # Alpaca
        ({"instruction": "Hi", "input": "", "output": "Hello"}, [TrainingExample("Hi", "Hello")]),
        (
            {"instruction": "Translate.", "input": "Bonjour", "output": "Hello", "text": "..."},
            [TrainingExample("Translate.\n\nBonjour", "Hello")],
        ),
        (
            {"instruction": "Hi", "output": "Hello", "system": "Be brief.", "history": [["a", "b"]]},
            [
                TrainingExample((SYSTEM, Message("user", "a")), "b"),
                TrainingExample(
                    (SYSTEM, Message("user", "a"), Message("assistant", "b"), Message("user", "Hi")),
                    "Hello",
                ),
            ],
        ),
        # Dolly
        (
            {"instruction": "Who?", "context": "Ann.", "response": "Ann", "category": "qa"},
            [TrainingExample("Who?\n\nAnn.", "Ann")],
        ),
        # ShareGPT
        ({"conversations": [HUMAN, GPT], "id": "1"}, [TrainingExample("Hi", "Hello")]),
        ({"conversations": [HUMAN, GPT], "system": "Be brief."}, [TrainingExample(TALK, "Hello")]),
        ({"conversations": [ASK, GOOD]}, [TrainingExample("Hi", "Hello")]),
        ({"conversations": [HUMAN, GPT, HUMAN]}, [TrainingExample("Hi", "Hello")]),
        ({"conversations": [HUMAN, {**GPT, "weight": 2}]}, [TrainingExample("Hi", "Hello", 2.0)]),
        # two columns
        ({"prompt": "Hi", "response": "Hello"}, [TrainingExample("Hi", "Hello")]),
        ({"question": "Hi", "answer": "Hello", "source": "x"}, [TrainingExample("Hi", "Hello")]),
        ({"query": "Hi", "answer": "Hello", "weight": 2}, [TrainingExample("Hi", "Hello", 2)]),
        (
            {"system_prompt": "Be brief.", "question": "Hi", "response": "Hello"},
            [TrainingExample(TALK, "Hello")],
        ),
        # one text with marks
        ({"text": "### Human: Hi\n### Assistant: Hello"}, [TrainingExample("Hi", "Hello")]),
        (
            {"text": "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello"},
            [TrainingExample(TALK, "Hello")],
        ),
    ],
)
def test_examples_are_read(row, examples):
    assert read_data([row]).examples() == examples


@pytest.mark.parametrize(
    ("row", "feedback"),
    [
        ({"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"}, PAIR),
        ({"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]}, PAIR),
        ({"prompt": "Hi", "chosen": [ASK, GOOD], "rejected": [ASK, BAD], "score_chosen": 9}, PAIR),
        ({"chosen": [ASK, GOOD], "rejected": [ASK, BAD]}, PAIR),
        ({"chosen": TRANSCRIPT + "Hello", "rejected": TRANSCRIPT + "Go away"}, PAIR),
        (
            {"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": "Go away"}},
            PAIR,
        ),
        ({"instruction": "Hi", "input": "", "chosen": "Hello", "rejected": "Go away"}, PAIR),
        (
            {"input": {"messages": [ASK]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
            PAIR,
        ),
        (
            {"prompt": "Hi", "completion": "Hello", "label": True},
            RecordedFeedback("Hi", "Hello", FeedbackSignal.success()),
        ),
        (
            {"prompt": [ASK], "completion": [BAD], "label": False},
            RecordedFeedback("Hi", "Go away", FeedbackSignal.failure()),
        ),
        (
            {"prompt": "Hi", "answer": "Go away", "correction": "Hello", "user": "ann"},
            RecordedFeedback("Hi", "Go away", FeedbackSignal.user_correction("Hello"), "ann"),
        ),
    ],
)
def test_judgements_are_read(row, feedback):
    assert read_data([row]).feedback() == [feedback]


CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [ASK, CALL, {"role": "tool", "content": "21"}, GOOD]}, "calls of tools"),
        ({"messages": [ASK, GOOD], "tools": [{"type": "function"}]}, "defines tools"),
        ({"conversations": [HUMAN, {"from": "function_call", "value": "{}"}]}, "calls of tools"),
        ({"conversations": [{"from": "alien", "value": "x"}, GPT]}, "from 'alien'.*Known are human"),
        ({"conversations": "Hi"}, "not a list of turns"),
        ({"text": "Once upon a time."}, "one plain text, without a prompt"),
        ({"chosen": "Hello", "rejected": "Go away"}, "no prompt"),
        ({"chosen": [ASK, GOOD], "rejected": [GOOD, BAD]}, "differ before their last turn"),
        ({"chosen": "Hello"}, "Only one of two answers"),
        ({"prompt": "Hi", "completion": "Hello", "label": "spam"}, "label is 'spam'"),
        ({"instruction": ["Hi"], "output": "Hello"}, "not a text but a list"),
        ({"instruction": "Hi", "output": "Hello", "history": ["a"]}, "history has an item"),
        ({"question": "Hi", "completion": "a", "answer": "b"}, "completion and answer are both answers"),
        ({"prompt": "Hi", "question": "Hi", "answer": "b"}, "prompt and question are both prompts"),
        ({"prompt": "a", "input": "b", "output": "c"}, "prompt and input are both prompts"),
        ({"label": 1, "sentence": "x"}, "no input and no output; its keys are: label, sentence"),
        ({"output": "x"}, "no 'prompt'"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_words(row, message):
    with pytest.raises(InvalidExample, match=f"(?s)Row 1: .*{message}"):
        read_data([row]).feedback()


def test_training_refuses_judgements_by_name_and_says_who_learns_them():
    rows = [{"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"}] * 3
    with pytest.raises(InvalidExample, match=r"judges an answer.*all 3 rows.*feedback NAME --file"):
        read_data(rows).examples()


def test_columns_that_no_format_reads_are_counted():
    rows = [{"prompt": "a", "completion": "b", "id": 1}, {"prompt": "c", "completion": "d", "id": 2}]
    data = read_data(rows)
    assert data.ignored == {"id": 2}
    assert data.formats == {"TRL (prompt, completion)": 2}


@pytest.mark.parametrize("row_format", FORMATS, ids=lambda f: f.name)
def test_each_format_is_the_first_that_fits_a_row_of_its_columns(row_format):
    row = dict.fromkeys(row_format.required, "x")
    assert next(f for f in FORMATS if f.fits(row)) is row_format
