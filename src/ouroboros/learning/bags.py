"""Texts as bags of words: which rows of a class are like the others."""

import math
import re
from collections import Counter
from zlib import crc32

import numpy as np
from jaxtyping import Int8
from numpy import ndarray

from ouroboros.domain.data import Prompt, messages_of

SIZE = 256
"""Numbers in a bag; words share them by hash."""

_LENGTH = 127
_WORD = re.compile(r"\w+")


def bag(prompt: Prompt) -> Int8[ndarray, "D"]:
    """How often each word is in a prompt, at a length of 127, in whole numbers.

    Words fall to places and signs by their hash (arXiv 0902.2206), so that those that share a place do
    not add up. The same everywhere.
    """
    found = [0] * SIZE
    counts = Counter(w for m in messages_of(prompt) for w in _WORD.findall(m.content.casefold()))
    for word, count in counts.items():
        place = crc32(word.encode())
        found[(place >> 1) % SIZE] += count if place & 1 else -count
    length = math.sqrt(sum(n * n for n in found)) or 1.0
    return np.array([round(_LENGTH * n / length) for n in found], dtype=np.int8)
