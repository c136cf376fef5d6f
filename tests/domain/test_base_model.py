"""The text of a fingerprint names stored things: it is the same in every release."""

from hashlib import sha256

import pytest

from ouroboros.domain.base_model import Fingerprint

FROZEN = [
    (
        Fingerprint("c0", "it's", '{{ "x" }}\n', "0a1b", 32000),
        "237dbfb38d4e52a111d1a379ee89e3aad86017c950847c99d5fff7a1c8886039",
    ),
    (
        Fingerprint("", "日本", "", "ff", 1),
        "c4a072390201fc5a80f1d196daf58c93d4628138d665287cc38622d84d46d5a8",
    ),
]


@pytest.mark.parametrize(("fingerprint", "digest"), FROZEN)
def test_the_text_is_the_one_that_stores_were_named_by(fingerprint: Fingerprint, digest: str):
    assert sha256(fingerprint.to_text().encode()).hexdigest() == digest
