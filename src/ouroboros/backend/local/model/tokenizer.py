"""Prompts and outputs as token ids, exactly as the model will see them when it serves."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from ouroboros.domain.data import Prompt, messages_of
from ouroboros.domain.errors import ModelError, TooLong

_SENTINEL = "\u2983answer\u2984"
_KEPT = 512
"""Rows whose ids are kept: every correction asks for the same probes and protected rows."""

_PROMPTS = ("hello", "1 + 1 =", "Who?\n", "\u00e9 ")
"""Prompts that end in different ways."""


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """One prompt and one output in token ids; the output ends with the end token."""

    prompt: tuple[int, ...]
    output: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.output)


class Codec:
    """Turns prompts into ids and ids into text, by the tokenizer's chat template when there is one.

    Prompt and output are tokenized apart, so that a prompt has the same ids in training as in serving.
    `ends` are the ids that end an answer; `end` is the one that training teaches. `opening` are those
    that every prompt ends with, as the template opens an answer; none without a template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int], context: int) -> None:
        self.tokenizer = tokenizer
        self.context = context
        known = dict.fromkeys([*ends, tokenizer.eos_token_id])
        self.ends = frozenset(i for i in known if isinstance(i, int))
        self.end = self._taught_end()
        self._encoded = lru_cache(maxsize=_KEPT)(self._encode)
        self.opening = self._invocation_tokens()

    def prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """Ids up to where the answer starts."""
        if self.tokenizer.chat_template is None:
            text = "\n".join(m.content for m in messages_of(prompt))
            return tuple(self.tokenizer.encode(text))
        return tuple(self._plain_ids(self._render(prompt)))

    def sequence(self, prompt: Prompt, output: str, what: str = "The example") -> TokenizedPair:
        """Ids of a whole row; `TooLong` if it does not fit the context. Nothing is ever cut."""
        sequence = self._encoded(prompt, output)
        if len(sequence) > self.context:
            raise TooLong(
                f"{what} is {len(sequence)} tokens long; the model's context holds {self.context}.",
                hint="Shorten it or split it; an output is never cut silently.",
            )
        return sequence

    def _encode(self, prompt: Prompt, output: str) -> TokenizedPair:
        return TokenizedPair(self.prompt_ids(prompt), (*self._plain_ids(output), self.end))

    def room(self, prompt: Sequence[int]) -> int:
        """How many tokens may follow a prompt; `TooLong` if none."""
        left = self.context - len(prompt)
        if left < 1:
            raise TooLong(
                f"The prompt is {len(prompt)} tokens long; the model's context holds {self.context}.",
                hint="Shorten the prompt.",
            )
        return left

    def text(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens left out."""
        return self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )  # type: ignore[return-value]  # one sequence gives one string

    def _plain_ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _render(self, prompt: Prompt, answer: str | None = None) -> str:
        turns = [{"role": m.role, "content": m.content} for m in messages_of(prompt)]
        if answer is not None:
            turns.append({"role": "assistant", "content": answer})
        return self.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=answer is None
        )  # type: ignore[return-value]

    def _invocation_tokens(self) -> tuple[int, ...]:
        """The template's generation prompt; where it has none, all that its prompts end with."""
        if self.tokenizer.chat_template is None:
            return ()
        ending = _common_end([self.prompt_ids(p) for p in _PROMPTS])
        turns = [{"role": "user", "content": _PROMPTS[0]}]
        bare: str = self.tokenizer.apply_chat_template(turns, tokenize=False)  # type: ignore[assignment]
        mark = tuple(self._plain_ids(self._render(_PROMPTS[0]).removeprefix(bare)))
        return mark if mark and ending[-len(mark) :] == mark else ending

    def _taught_end(self) -> int:
        """What the template writes after an answer if that ends generation, else the end of sequence."""
        if self.tokenizer.chat_template is not None:
            _, found, tail = self._render("hello", _SENTINEL).rpartition(_SENTINEL)
            ids = self._plain_ids(tail) if found else []
            if ids and ids[0] in self.ends:
                return ids[0]
        if self.tokenizer.eos_token_id is not None:
            return self.tokenizer.eos_token_id  # type: ignore[return-value]
        if not self.ends:
            raise ModelError(
                "The tokenizer has no end-of-sequence token, so an answer could never end.",
                hint="Set eos_token in the tokenizer's configuration.",
            )
        return min(self.ends)


def _common_end(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The longest ids that all rows end with."""
    shared = 0
    for ids in zip(*map(reversed, rows), strict=False):
        if len(set(ids)) > 1:
            break
        shared += 1
    return rows[0][len(rows[0]) - shared :]
