"""Texts as bags of words."""

import numpy as np

from ouroboros.domain.data import Message
from ouroboros.learning.replay.reservoir import bag_of_words


def near(one: str, other: str) -> float:
    return float(bag_of_words(one).astype(float) @ bag_of_words(other).astype(float)) / 127**2


def test_order_case_and_marks_do_not_matter():
    assert np.array_equal(bag_of_words("Turn the lamp on!"), bag_of_words("on the LAMP, turn"))


def test_texts_that_share_words_are_near():
    assert near("turn the lamp on", "turn the lamp off") > 0.5 > near("turn the lamp on", "who wrote it")


def test_a_conversation_is_all_its_words_and_no_words_are_an_empty_bag():
    turns = (Message("system", "be brief"), Message("user", "turn the lamp on"))
    assert np.array_equal(bag_of_words(turns), bag_of_words("be brief turn the lamp on"))
    assert not bag_of_words("?!").any()
