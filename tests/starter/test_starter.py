"""The shipped starter model: small, offline, with a chat template; and the example tasks beside it."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from ouroboros.starter import starter_path

EXAMPLES = Path(__file__).parents[2] / "examples" / "data"
TASKS = ("tickets", "reviews", "commands")
MOST_BYTES = 12_000_000
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "Bye"},
]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(starter_path(), local_files_only=True)


@pytest.fixture(scope="module")
def model():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(starter_path(), local_files_only=True)


def read_rows(task: str, part: str) -> list[dict[str, str]]:
    return [
        json.loads(line)
        for line in (EXAMPLES / task / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def split_words(text: str) -> set[str]:
    return set(re.findall(r"[\w']+", text.lower()))


def test_folder_fits_in_the_package():
    assert sum(path.stat().st_size for path in starter_path().iterdir()) <= MOST_BYTES


def test_tokenizer_and_model_agree_on_special_tokens(model, tokenizer):
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id


def test_template_renders_a_conversation(tokenizer):
    text = tokenizer.apply_chat_template(CONVERSATION, add_generation_prompt=True, tokenize=False)
    assert text == "<|system|>Be brief.<|user|>Hello<|assistant|>Hi<|end|><|user|>Bye<|assistant|>"


def test_answer_continues_the_prompt_token_by_token(tokenizer):
    question = [{"role": "user", "content": "Where is it?"}]
    answered = [*question, {"role": "assistant", "content": "Here"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template(answered, return_dict=False)
    assert whole == [
        *prompt,
        *tokenizer.encode("Here", add_special_tokens=False),
        tokenizer.eos_token_id,
    ]


@pytest.mark.parametrize(
    "text",
    ["  two  spaces\n\ttab ", "naïve façade — “quotes”", "日本語 🐍 ελληνικά", "x = {'a': 10_000}"],
)
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_generation_ends_its_answer(model, tokenizer):
    question = [{"role": "user", "content": "I want to book a table for two tonight."}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")
    output = model.generate(**prompt, max_new_tokens=40)
    assert output[0, -1].item() == tokenizer.eos_token_id


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("part", "least"), [("train", 100), ("heldout", 60)])
def test_example_rows_are_well_formed_and_balanced(task, part, least):
    examples = read_rows(task, part)
    counts = Counter(row["completion"] for row in examples)
    assert len(examples) >= least
    assert all(
        set(row) == {"prompt", "completion"} and row["prompt"].strip() == row["prompt"] != ""
        for row in examples
    )
    assert len(set(counts.values())) == 1
    assert set(counts) == {row["completion"] for row in read_rows(task, "train")}


@pytest.mark.parametrize("task", TASKS)
def test_heldout_rows_resemble_no_training_row(task):
    train = [split_words(row["prompt"]) for row in read_rows(task, "train")]
    for row in read_rows(task, "heldout"):
        mine = split_words(row["prompt"])
        closest = max(len(mine & other) / len(mine | other) for other in train)
        assert closest < 0.5, row["prompt"]
