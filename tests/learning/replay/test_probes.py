"""Which examples are held out."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ouroboros.domain.data import TrainingExample
from ouroboros.domain.verdict import ExampleRef
from ouroboros.learning.replay.probes import (
    FIRST_PROBES,
    MAX_HELD_OUT_AT_ONCE,
    MIN_EXAMPLES,
    Probe,
    ProbeKind,
    choose_first_probes,
    choose_held_out,
)


def make_examples(count: int, labels: int) -> list[TrainingExample]:
    return [TrainingExample(f"row {i}", f"label {i % labels}") for i in range(count)]


def test_of_few_examples_none_is_held_out():
    assert not choose_held_out(make_examples(MIN_EXAMPLES - 1, 2), ())


def test_a_tenth_is_held_out_evenly_over_the_classes():
    examples = make_examples(100, 5)
    out = choose_held_out(examples, ())
    assert Counter(examples[i].output for i in out) == {f"label {n}": 2 for n in range(5)}
    assert len(choose_held_out(make_examples(5000, 7), ())) == MAX_HELD_OUT_AT_ONCE


def test_rare_classes_are_not_robbed():
    """A class of three keeps them all, unless there are many such classes."""
    examples = make_examples(60, 2) + [TrainingExample(f"rare {i}", "rare") for i in range(3)]
    assert not any(examples[i].output == "rare" for i in choose_held_out(examples, ()))


def test_free_text_is_held_out_too():
    examples = [TrainingExample(f"row {i}", f"{i} is what was said about it today") for i in range(80)]
    assert len(choose_held_out(examples, ())) == 8


def test_what_was_trained_before_or_given_with_two_outputs_is_not_held_out():
    examples = make_examples(100, 5)
    out = choose_held_out(examples, ())
    assert not out & choose_held_out(examples, {examples[i].input for i in out})
    twice = examples + [TrainingExample(examples[i].input, "another") for i in out]
    assert not {i % 100 for i in choose_held_out(twice, ())} & out


def test_an_example_given_twice_is_held_out_twice_or_not_at_all():
    examples = make_examples(50, 3) * 2
    out = choose_held_out(examples, ())
    assert out
    assert {i % 50 for i in out if i < 50} == {i % 50 for i in out if i >= 50}


@given(st.permutations(make_examples(60, 4)))
def test_order_does_not_matter(examples):
    chosen = {examples[i] for i in choose_held_out(examples, ())}
    plain = make_examples(60, 4)
    assert chosen == {plain[i] for i in choose_held_out(plain, ())}


def make_probes(
    count: int, label: str, first: int = 0, kind: ProbeKind = ProbeKind.HELD_OUT
) -> list[Probe]:
    refs = [ExampleRef(1, first + i) for i in range(count)]
    return [Probe(ref, TrainingExample(f"row {ref.row}", label), kind) for ref in refs]


def test_a_class_of_five_in_three_hundred_probes_is_asked_first_whatever_the_parent():
    """A sample of 32 of 300 misses all five in 57 of 100 updates."""
    small = make_probes(5, "refund", first=500)
    pin = make_probes(1, "pinned", first=900, kind=ProbeKind.PINNED)
    probes = [*make_probes(150, "red"), *make_probes(145, "blue", first=200), *small, *pin]
    answered = {small[3].ref, *(p.ref for p in probes[:100])}
    for seed in range(50):
        chosen = choose_first_probes(probes, answered, str(seed))
        assert small[3] in chosen, "of its class the one that can be lost"
        assert pin[0] in chosen
        assert len(chosen) == len({p.ref for p in chosen}) == FIRST_PROBES + 1


def test_few_probes_are_all_asked_and_other_parents_ask_others():
    few = make_probes(20, "red")
    assert {p.ref for p in choose_first_probes(few, (), "a")} == {p.ref for p in few}
    many = make_probes(200, "red")
    first, second = ({p.ref for p in choose_first_probes(many, (), seed)} for seed in "ab")
    assert first != second
    assert len(first) == len(second) == FIRST_PROBES
