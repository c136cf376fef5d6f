"""The replay memory: bounded, balanced, and the same whenever it is filled again."""

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ouroboros.domain.data import Message, TrainingExample
from ouroboros.domain.verdict import ExampleRef
from ouroboros.learning.replay.reservoir import Reservoir, classify_output, make_bag_of_words

ROWS = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["red", "blue", "green"])), max_size=40
)


def fill_reservoir(rows, limit=6, size=1000) -> Reservoir:
    reservoir = Reservoir(limit, size)
    for i, (prompt, output) in enumerate(rows):
        reservoir.put(ExampleRef(i), TrainingExample(prompt, output))
    return reservoir


@given(ROWS)
def test_it_is_bounded_and_each_prompt_has_its_latest_output(rows):
    stored = list(fill_reservoir(rows))
    assert len(stored) <= 6
    latest = dict(rows)
    assert all(latest[k.example.input] == k.example.output for k in stored)


@given(ROWS)
def test_filled_again_it_is_the_same(rows):
    assert list(fill_reservoir(rows)) == list(fill_reservoir(rows))


@given(ROWS, st.integers(1, 60))
def test_bytes_are_bounded_too(rows, size):
    stored = list(fill_reservoir(rows, size=size))
    assert sum(len(k.example.input) + len(k.example.output) for k in stored) <= size


def test_a_rare_class_keeps_all_it_has_and_the_rest_share():
    common = [(f"common {i}", "red") for i in range(500)]
    rare = [(f"rare {i}", "blue") for i in range(5)]
    rows = common + rare
    random.Random(0).shuffle(rows)
    outputs = [k.example.output for k in fill_reservoir(rows, limit=20, size=10_000)]
    assert (outputs.count("blue"), outputs.count("red")) == (5, 15)


def test_what_is_kept_of_a_class_does_not_depend_on_when_it_came():
    """A reservoir that favoured early or late rows would be a biased sample."""
    rows = [(f"row {i}", "red") for i in range(300)]
    forth, back = fill_reservoir(rows, 30, 10_000), fill_reservoir(rows[::-1], 30, 10_000)
    assert {k.example for k in forth} == {k.example for k in back}
    numbers = [int(str(k.example.input).split()[1]) for k in forth]
    assert 100 < sum(numbers) / len(numbers) < 200


def test_labels_are_classes_and_longer_text_falls_together_by_how_it_opens():
    assert classify_output("Team Keys") == classify_output("team  keys") != classify_output("team-keys")
    long = "The parcel was sent on Monday and should be with you soon."
    other = "The invoice was paid twice and we will send one back."
    assert (
        classify_output(long)
        == classify_output(other)
        != classify_output("No, that is not possible at the moment.")
    )


def test_the_typical_of_a_class_stay_where_they_are_wanted():
    alike = [(f"please turn the lamp {word}", "lights") for word in "on off up down red blue".split()]
    odd = [(f"{word} {word}s", "lights") for word in "quux zorb flim".split()]
    reservoir = Reservoir(4, keep_typical=True)
    for i, (prompt, output) in enumerate([*odd, *alike]):
        reservoir.put(ExampleRef(i), TrainingExample(prompt, output))
    assert sum("lamp" in str(stored.example.input) for stored in reservoir) >= 3


@given(ROWS)
def test_with_the_typical_it_is_bounded_too_and_the_same_again(rows):
    def list_stored() -> list:
        reservoir = Reservoir(6, 1000, keep_typical=True)
        for i, (prompt, output) in enumerate(rows):
            reservoir.put(ExampleRef(i), TrainingExample(prompt, output))
        return list(reservoir)

    assert list_stored() == list_stored()
    assert len(list_stored()) <= 6
    latest = dict(rows)
    assert all(latest[k.example.input] == k.example.output for k in list_stored())


def compute_cosine(one: str, other: str) -> float:
    return float(make_bag_of_words(one).astype(float) @ make_bag_of_words(other).astype(float)) / 127**2


def test_order_case_and_marks_do_not_matter():
    assert np.array_equal(make_bag_of_words("Turn the lamp on!"), make_bag_of_words("on the LAMP, turn"))


def test_texts_that_share_words_are_near():
    assert (
        compute_cosine("turn the lamp on", "turn the lamp off")
        > 0.5
        > compute_cosine("turn the lamp on", "who wrote it")
    )


def test_a_conversation_is_all_its_words_and_no_words_are_an_empty_bag():
    turns = (Message("system", "be brief"), Message("user", "turn the lamp on"))
    assert np.array_equal(make_bag_of_words(turns), make_bag_of_words("be brief turn the lamp on"))
    assert not make_bag_of_words("?!").any()
