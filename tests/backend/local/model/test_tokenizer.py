"""Tokens: a row in training is what the model sees in serving."""

import pytest
from transformers import AutoTokenizer

from ouroboros.backend.local.model.load import load_base
from ouroboros.backend.local.model.tokenizer import ChatTokenizer
from ouroboros.domain.data import Message
from ouroboros.domain.errors import ModelError, TooLong


@pytest.fixture
def tokenizer(tiny_folder):
    return AutoTokenizer.from_pretrained(tiny_folder())


@pytest.fixture
def codec(tokenizer):
    return ChatTokenizer(tokenizer, [], context=64)


def test_the_chat_template_frames_a_prompt(codec, tokenizer):
    text = tokenizer.decode(codec.encode_prompt("hello"))
    assert text == "<|user|>hello<|end|><|assistant|>"


def test_a_conversation_keeps_its_turns(codec, tokenizer):
    turns = (
        Message("system", "be brief"),
        Message("user", "hi"),
        Message("assistant", "yes"),
        Message("user", "why?"),
    )
    text = tokenizer.decode(codec.encode_prompt(turns))
    assert (
        text == "<|system|>be brief<|end|><|user|>hi<|end|>"
        "<|assistant|>yes<|end|><|user|>why?<|end|><|assistant|>"
    )


def test_an_output_ends_with_the_template_s_end(codec, tokenizer):
    row = codec.encode_pair("hello", "there")
    assert tokenizer.decode(row.output) == "there<|end|>"
    assert row.prompt == codec.encode_prompt("hello")


def test_without_a_template_the_prompt_is_plain_text(tiny_folder):
    codec = load_base(str(tiny_folder(chat=False)), dtype="float32").tokenizer
    assert codec.decode(codec.encode_prompt("2 + 2 = ")) == "2 + 2 = "


def test_any_text_round_trips(codec):
    for text in ("naïve café", "日本語", "🙂 x\t\n", "a\u0000b"):
        assert codec.decode(codec.encode_pair("q", text).output) == text


def test_too_long_names_the_lengths(codec):
    with pytest.raises(TooLong, match=r"Row 9 is \d+ tokens long; the model's context holds 64"):
        codec.encode_pair("parcel " * 60, "x", "Row 9")


def test_a_tokenizer_that_cannot_end_is_refused(tokenizer):
    tokenizer.eos_token = None
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="end-of-sequence"):
        ChatTokenizer(tokenizer, [], 64)


def test_the_opening_is_what_the_template_opens_an_answer_with(codec, tokenizer):
    assert tokenizer.decode(codec.invocation_tokens) == "<|assistant|>"
    assert codec.encode_prompt("hello")[-1:] == codec.invocation_tokens


def test_a_template_without_a_generation_prompt_opens_with_what_all_its_prompts_end_with(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}<|user|>{{ m.content }}<|end|><|pad|>{% endfor %}"
    assert (
        tokenizer.decode(ChatTokenizer(tokenizer, [], context=64).invocation_tokens) == "<|end|><|pad|>"
    )


def test_plain_text_has_no_opening(tokenizer):
    tokenizer.chat_template = None
    assert ChatTokenizer(tokenizer, [], context=64).invocation_tokens == ()


def test_a_row_that_was_asked_for_before_is_not_rendered_again(codec, monkeypatch):
    first = codec.encode_pair("hello", "yes")
    monkeypatch.setattr(codec, "_render_template", None)
    assert codec.encode_pair("hello", "yes") == first
