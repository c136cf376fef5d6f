"""Prompts and outputs as token ids, exactly as the model will see them when it serves."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ouroboros.backend.local.model.special_text import SpecialText
from ouroboros.backend.local.model.template_limit import time_limit
from ouroboros.domain.data import Continuation, Message, Prompt, to_messages
from ouroboros.domain.errors import InvalidExample, ModelError, TooLong

_SENTINEL = "\u2983answer\u2984"
_TEMPLATE_ERRORS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What the code of a template can raise, by `raise_exception` or by mistake."""

_CACHED_PAIRS = 512
"""Rows whose ids are kept: every correction asks for the same probes and protected rows."""

_SAMPLE_PROMPTS = ("hello", "1 + 1 =", "Who?\n", "\u00e9 ")
"""Prompts that end in different ways."""


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's byte-level alphabet: the character that stands for each byte, as bytes by character."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {chr(256 + n): byte for n, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted


_BYTE_OF = _byte_alphabet()


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """One prompt and one output in token ids; the output ends with the end token."""

    prompt: tuple[int, ...]
    output: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.output)


class ChatTokenizer:
    """Turns prompts into ids and ids into text, by the tokenizer's chat template when there is one.

    Prompt and output are tokenized apart, so that a prompt has the same ids in training as in serving.
    `end_ids` are the ids that end an answer; `end_id` is the one that training teaches.
    `invocation_tokens` are the ids of the template's generation prompt, which every prompt ends with;
    empty without a template. `rows` counts those of the model's embedding: text with a token beyond them
    is refused. Text of messages and outputs never becomes a special token (see `SpecialText`).
    """

    def __init__(
        self,
        hf_tokenizer: PreTrainedTokenizerBase,
        end_ids: Sequence[int],
        context: int,
        rows: int = 1 << 31,
    ) -> None:
        self.hf_tokenizer = hf_tokenizer
        self._rows = rows
        self.context = context
        candidates = dict.fromkeys([*end_ids, hf_tokenizer.eos_token_id])
        self.end_ids = frozenset(i for i in candidates if isinstance(i, int))
        self._system_turn = self._find_system_turn()
        self.special_text = SpecialText(hf_tokenizer, self._find_marks())
        self.end_id = self._find_end_id()
        self._cached_encode = lru_cache(maxsize=_CACHED_PAIRS)(self._encode_pair)
        self.invocation_tokens = self._find_invocation_tokens()
        self._special_ids = frozenset(hf_tokenizer.all_special_ids)
        fast = getattr(hf_tokenizer, "backend_tokenizer", None)
        self._byte_level = "ByteLevel" in repr(getattr(fast, "decoder", ""))

    def encode_prompt(self, prompt: Prompt) -> tuple[int, ...]:
        """Ids up to where the answer starts."""
        messages = to_messages(prompt)
        if self.hf_tokenizer.chat_template is None:
            return tuple(self._encode_raw_text("\n".join(m.content for m in messages)))
        texts, masks = self.special_text.mask([m.content for m in messages])
        masked = tuple(Message(m.role, text) for m, text in zip(messages, texts, strict=True))
        rendered = self._render_template(masked)
        return tuple(self.special_text.encode_masked(rendered, masks, self._encode_text))

    def anchor_conversation(self, prompt: Prompt) -> Prompt:
        """A prompt of our own as a conversation that the template renders.

        A plain text gets a system turn where the template refuses a user turn alone.
        """
        if self._system_turn and isinstance(prompt, str):
            return (*self._system_turn, Message("user", prompt))
        return prompt

    def encode_continuation(self, prompt: Continuation) -> tuple[int, ...]:
        """Ids of a text without the chat template, as a text of the base's training begins.

        Special tokens can be given as ids; in a text they are ordinary characters.
        """
        if isinstance(prompt.text, str):
            return tuple(self._encode_raw_text(prompt.text))
        highest, size = max(prompt.text), min(len(self.hf_tokenizer), self._rows)
        if highest >= size:
            raise InvalidExample(
                f"The prompt holds the token id {highest}; the vocabulary has {size:,}.",
                hint="Tokenize the prompt with this model's tokenizer.",
            )
        return prompt.text

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; a byte-level vocabulary has parts of characters."""
        name = str(self.hf_tokenizer.convert_ids_to_tokens(token))
        if token in self._special_ids:
            return name.encode()
        if self._byte_level:
            return bytes(_BYTE_OF[c] for c in name if c in _BYTE_OF)
        if re.fullmatch("<0x[0-9A-F]{2}>", name):
            return bytes([int(name[3:5], 16)])
        return name.replace("\u2581", " ").encode()

    def count_pair(self, prompt: Prompt, output: str) -> int:
        """The tokens of a whole row, however many. Raises `InvalidExample` if it cannot be encoded."""
        return len(self._encode_pair(prompt, output))

    def encode_pair(self, prompt: Prompt, output: str, what: str = "The example") -> TokenizedPair:
        """Ids of a whole row; `TooLong` if it does not fit the context. Nothing is ever cut."""
        try:
            pair = self._cached_encode(prompt, output)
        except InvalidExample as error:
            raise InvalidExample(
                f"{what} cannot be encoded. {error.message}", hint=error.hint
            ) from error
        if len(pair) > self.context:
            raise TooLong(
                f"{what} is {len(pair)} tokens long; the model's context holds {self.context}.",
                hint="Shorten it or split it; an output is never cut silently.",
            )
        return pair

    def _encode_pair(self, prompt: Prompt, output: str) -> TokenizedPair:
        return TokenizedPair(self.encode_prompt(prompt), (*self._encode_output(output), self.end_id))

    def remaining_context(self, prompt: Sequence[int]) -> int:
        """How many tokens may follow a prompt; `TooLong` if none."""
        remaining = self.context - len(prompt)
        if remaining < 1:
            raise TooLong(
                f"The prompt is {len(prompt)} tokens long; the model's context holds {self.context}.",
                hint="Shorten the prompt.",
            )
        return remaining

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens left out."""
        return self.hf_tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )  # type: ignore[return-value]  # one sequence gives one string

    def _encode_output(self, text: str) -> list[int]:
        if self.special_text.occurs_in(text):
            return self._check_ids(self.special_text.encode_ordinary(text))
        return self._encode_text(text)

    def _encode_raw_text(self, text: str) -> list[int]:
        """Ids of a text without a template, between the tokens that the tokenizer puts around texts."""
        ids = self.hf_tokenizer.encode(text)
        if not self.special_text.occurs_in(text):
            return self._check_ids(ids)
        around = self.hf_tokenizer.encode("")
        bare = self.hf_tokenizer.encode(text, add_special_tokens=False)
        before = next((n for n in range(len(around) + 1) if ids[n : n + len(bare)] == bare), 0)
        ordinary = self._check_ids(self.special_text.encode_ordinary(text))
        return [*ids[:before], *ordinary, *ids[before + len(bare) :]]

    def _encode_text(self, text: str) -> list[int]:
        return self._check_ids(self.hf_tokenizer.encode(text, add_special_tokens=False))

    def _check_ids(self, ids: list[int]) -> list[int]:
        """The ids, each of which has a row in the model's embedding."""
        beyond = [i for i in ids if i >= self._rows]
        if beyond:
            token = self.hf_tokenizer.convert_ids_to_tokens(beyond[0])
            raise InvalidExample(
                f"The text holds the token {token!r}, for which the model has no embedding.",
                hint="Leave it out.",
            )
        return ids

    def _render_template(self, prompt: Prompt, answer: str | None = None) -> str:
        messages = [{"role": m.role, "content": m.content} for m in to_messages(prompt)]
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        return self._apply_template(messages, add_generation_prompt=answer is None)

    def _apply_template(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        """Render a conversation; `InvalidExample` with the template's words if it refuses."""
        try:
            with time_limit():
                return self.hf_tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=add_generation_prompt
                )  # type: ignore[return-value]
        except _TEMPLATE_ERRORS as error:
            roles = ", ".join(message["role"] for message in messages[:12])
            raise InvalidExample(
                f"The model's chat template refuses a conversation of the turns {roles}:"
                f" {str(error)[:300] or type(error).__name__}",
                hint="Give the turns that the model was trained with, or load another model.",
            ) from error

    def _find_system_turn(self) -> tuple[Message, ...]:
        """A system turn for sample conversations, where the template refuses a user turn alone."""
        if self.hf_tokenizer.chat_template is None:
            return ()
        try:
            self._render_template("hello")
        except InvalidExample as refusal:
            system_turn = (Message("system", "Answer."),)
            try:
                self._render_template((*system_turn, Message("user", "hello")))
            except InvalidExample:
                raise ModelError(refusal.message, hint="Repair its chat_template.jinja.") from refusal
            return system_turn
        return ()

    def _find_marks(self) -> dict[int, str]:
        """Special tokens, and other added tokens with which the template begins and ends turns.

        Some tokenizers add a template's role marks as tokens that are not special.
        """
        added = self.hf_tokenizer.added_tokens_decoder
        marks = {i: token.content for i, token in added.items() if token.special}
        marks |= {i: str(self.hf_tokenizer.convert_ids_to_tokens(i)) for i in self.end_ids}
        if self.hf_tokenizer.chat_template is not None:
            # Only the first one after the content: an answer may hold the <think> that follows it.
            prompt = self.anchor_conversation(_SENTINEL)
            before, _, after = self._render_template(prompt).partition(_SENTINEL)
            turns = [i for i in self._encode_text(before) if i in added]
            turns += [i for i in self._encode_text(after) if i in added][:1]
            marks |= {i: added[i].content for i in turns}
        return marks

    def _find_invocation_tokens(self) -> tuple[int, ...]:
        """The template's generation prompt; where it has none, all that its prompts end with."""
        if self.hf_tokenizer.chat_template is None:
            return ()
        samples = [self.encode_prompt(self.anchor_conversation(p)) for p in _SAMPLE_PROMPTS]
        common_suffix = _common_suffix(samples)
        shortest = to_messages(self.anchor_conversation(_SAMPLE_PROMPTS[0]))
        messages = [{"role": m.role, "content": m.content} for m in shortest]
        without_invocation = self._apply_template(messages, add_generation_prompt=False)
        with_invocation = self._apply_template(messages, add_generation_prompt=True)
        generation_prompt = tuple(self._encode_text(with_invocation.removeprefix(without_invocation)))
        return (
            generation_prompt
            if generation_prompt and common_suffix[-len(generation_prompt) :] == generation_prompt
            else common_suffix
        )

    def _find_end_id(self) -> int:
        """What the template writes after an answer if that ends generation, else the end of sequence."""
        if self.hf_tokenizer.chat_template is not None:
            rendered = self._render_template(self.anchor_conversation("hello"), _SENTINEL)
            _, sentinel, tail = rendered.rpartition(_SENTINEL)
            ids = self._encode_text(tail) if sentinel else []
            if ids and ids[0] in self.end_ids:
                return ids[0]
        if self.hf_tokenizer.eos_token_id is not None:
            return self.hf_tokenizer.eos_token_id  # type: ignore[return-value]
        if not self.end_ids:
            raise ModelError(
                "The tokenizer has no end-of-sequence token, so an answer could never end.",
                hint="Set eos_token in the tokenizer's configuration.",
            )
        return min(self.end_ids)


def _common_suffix(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The longest ids that all rows end with."""
    length = 0
    for ids in zip(*map(reversed, rows), strict=False):
        if len(set(ids)) > 1:
            break
        length += 1
    return rows[0][len(rows[0]) - length :]
