"""Texts that quote special tokens: a user who writes `<|im_end|>` writes eleven characters, not a mark.

The marks that a chat template writes are tokens; the same characters in a message or an output are
ordinary text. Otherwise one message could contain a forged conversation.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from ouroboros.domain.errors import InvalidExample

_PRIVATE_USE = range(0xE000, 0xF900)
"""Unicode assigns no character here; templates do not change them, tokenizers have no tokens of them."""


class SpecialText:
    """Encodes texts so that no part of them becomes one of the tokens `marks`.

    `marks` are the texts of special tokens by id. The unknown token is none: ordinary text may have it.
    """

    def __init__(self, hf_tokenizer: PreTrainedTokenizerBase, marks: Mapping[int, str]) -> None:
        self._hf_tokenizer = hf_tokenizer
        unknown = hf_tokenizer.unk_token_id
        self._marks = {i: text for i, text in marks.items() if text and i != unknown}
        longest_first = sorted(self._marks.values(), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def occurs_in(self, text: str) -> bool:
        """Whether the tokenizer would read a part of `text` as a special token."""
        return self._has_mark(self._hf_tokenizer.encode(text, add_special_tokens=False))

    def mask(self, texts: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """The texts with each quoted mark replaced by one private character, and the mark of each.

        Templates can trim, cut and test the masked texts as they do others. Raises `InvalidExample` for
        a text that becomes a mark only by the tokenizer's normalization.
        """
        if not any(map(self.occurs_in, texts)):
            return list(texts), {}
        used = set("".join(texts))
        quoted = dict.fromkeys(m for text in texts for m in self._pattern.findall(text))
        free = (chr(code) for code in _PRIVATE_USE if chr(code) not in used)
        masks = dict(zip(quoted, free, strict=False))
        masked = [self._pattern.sub(lambda match: masks[match[0]], text) for text in texts]
        for text, replaced in zip(texts, masked, strict=True):
            if self.occurs_in(replaced):
                raise self._refusal(text)
        return masked, {mask: mark for mark, mask in masks.items()}

    def encode_masked(
        self, text: str, masks: Mapping[str, str], encode: Callable[[str], list[int]]
    ) -> list[int]:
        """Ids of a text in which `masks` stand for quoted marks; `encode` gives the ids of all else."""
        if not masks:
            return encode(text)
        ids: list[int] = []
        for piece in re.split(f"([{''.join(masks)}])", text):
            if piece:
                ids += self.encode_ordinary(masks[piece]) if piece in masks else encode(piece)
        return ids

    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of a text, none of which is a mark. Raises `InvalidExample` if there are none such."""
        ids = self._encode_plain(text)
        if self._has_mark(ids):
            # The vocabulary holds the mark as an ordinary piece as well: spell the quoted marks out.
            parts = self._pattern.split(text)
            spelled = [*self._pattern.findall(text), ""]
            pieces = (p for part, mark in zip(parts, spelled, strict=True) for p in (part, *mark))
            ids = [i for piece in pieces if piece for i in self._encode_plain(piece)]
        if self._has_mark(ids):
            raise self._refusal(text)
        return ids

    def _encode_plain(self, text: str) -> list[int]:
        if self._plain is None:
            ids: list[int] = []
            for character in text:
                ids += self._hf_tokenizer.encode(character, add_special_tokens=False)
            return ids
        return self._plain.encode(text, add_special_tokens=False).ids

    @cached_property
    def _plain(self) -> Tokenizer | None:
        """A copy of the tokenizer that does not look for marks; None where it is written in Python.

        A copy, because the switch is a state of the tokenizer, which several threads use.
        """
        fast: Any = getattr(self._hf_tokenizer, "backend_tokenizer", None)
        if not isinstance(fast, Tokenizer):
            return None
        plain = Tokenizer.from_str(fast.to_str())
        plain.no_truncation()
        plain.no_padding()
        plain.add_special_tokens([AddedToken(text, special=True) for text in self._marks.values()])
        plain.encode_special_tokens = True
        return plain

    def _has_mark(self, ids: Iterable[int]) -> bool:
        return not self._marks.keys().isdisjoint(ids)

    def _refusal(self, text: str) -> InvalidExample:
        quoted = self._pattern.search(text)
        what = repr(quoted[0][:60]) if quoted else "a text that becomes a special token"
        return InvalidExample(
            f"The text holds {what}, which this model's tokenizer cannot encode as ordinary text.",
            hint="Write it differently, with a space between its characters.",
        )
