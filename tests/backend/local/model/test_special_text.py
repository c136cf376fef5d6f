"""Special tokens quoted in texts: vocabularies that hold a mark as an ordinary piece too."""

import pytest
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from ouroboros.backend.local.model.special_text import SpecialText
from ouroboros.domain.errors import InvalidExample

PIECES = [("<unk>", 0.0), ("</s>", -1.0), *((c, -2.0) for c in "abc </s>x")]


def sentencepiece(normalizer=None) -> tuple[PreTrainedTokenizerFast, SpecialText]:
    tokenizer = Tokenizer(models.Unigram(PIECES, unk_id=0))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    hf = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
    return hf, SpecialText(hf, {i: t.content for i, t in hf.added_tokens_decoder.items()})


def test_a_mark_that_is_also_a_piece_of_the_vocabulary_is_spelled_out():
    hf, special_text = sentencepiece()
    ids = special_text.encode_ordinary("ab</s>c")
    assert hf.eos_token_id not in ids
    assert "".join(hf.convert_ids_to_tokens(ids)) == "ab</s>c"


def test_unknown_characters_are_no_mark():
    _, special_text = sentencepiece()
    assert not special_text.occurs_in("a?")


def test_a_text_that_becomes_a_mark_by_normalization_is_refused_in_words():
    _, special_text = sentencepiece(normalizers.NFKC())
    lookalike = "a\uff1c/s\uff1e"
    assert special_text.occurs_in(lookalike)
    with pytest.raises(InvalidExample, match="cannot encode as ordinary text"):
        special_text.mask([lookalike])
