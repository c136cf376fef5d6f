"""What a line has been taught, digested from events."""

from datetime import UTC, datetime

import pytest

from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import InvalidInput, NotFound
from ouroboros.domain.events import ExamplesGiven, FeedbackGiven, Pinned, Unpinned
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.verdict import ExampleRef
from ouroboros.learning.replay.knowledge import MAX_PINS, Knowledge, check_pins
from ouroboros.learning.replay.probes import ProbeKind

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make_examples(count: int, start: int = 0) -> tuple[TrainingExample, ...]:
    return tuple(TrainingExample(f"row {i}", f"label {i % 4}") for i in range(start, start + count))


def give_feedback(prompt: str, answer: str, signal: FeedbackSignal) -> FeedbackGiven:
    return FeedbackGiven(prompt, answer, signal, f"{prompt}{answer}{signal}", NOW)


def build_knowledge(*events) -> Knowledge:
    knowledge = Knowledge()
    for number, event in enumerate(events, start=1):
        knowledge.add_event(number, event)
    return knowledge


def prompts(knowledge: Knowledge, kind: ProbeKind) -> set:
    return {probe.example.input for probe in knowledge.list_probes() if probe.kind is kind}


def replay_outputs(knowledge: Knowledge) -> dict:
    return {row.prompt: row.output for row in knowledge.list_replay_rows()}


def test_what_is_held_out_is_asked_and_never_replayed():
    examples = make_examples(100)
    knowledge = build_knowledge(ExamplesGiven(examples, NOW))
    out = {examples[i].input for i in Knowledge().select_held_out(examples)}
    assert len(out) == 10
    assert prompts(knowledge, ProbeKind.HELD_OUT) == out
    assert set(replay_outputs(knowledge)) == {e.input for e in examples} - out


def test_probes_say_where_in_the_journal_they_stand():
    examples = make_examples(100)
    for probe in build_knowledge(ExamplesGiven(examples, NOW)).list_probes():
        assert probe.ref.event == 1
        assert examples[probe.ref.row] == probe.example


def test_a_small_portion_is_asked_itself():
    knowledge = build_knowledge(ExamplesGiven(make_examples(5), NOW))
    assert prompts(knowledge, ProbeKind.TAUGHT) == set(replay_outputs(knowledge)) != set()


def test_the_same_file_again_holds_out_the_same():
    once = build_knowledge(ExamplesGiven(make_examples(100), NOW))
    twice = build_knowledge(
        ExamplesGiven(make_examples(100), NOW), ExamplesGiven(make_examples(100), NOW)
    )
    assert prompts(once, ProbeKind.HELD_OUT) == prompts(twice, ProbeKind.HELD_OUT)


def test_a_probe_that_is_corrected_is_a_probe_no_more():
    examples = make_examples(100)
    (probe, *_) = build_knowledge(ExamplesGiven(examples, NOW)).list_probes()
    prompt = str(probe.example.input)
    fix = give_feedback(prompt, probe.example.output, FeedbackSignal.user_correction("other"))
    knowledge = build_knowledge(ExamplesGiven(examples, NOW), fix)
    assert prompt not in prompts(knowledge, ProbeKind.HELD_OUT)
    assert replay_outputs(knowledge)[prompt] == "other"
    assert prompts(knowledge, ProbeKind.TAUGHT) == {prompt}


def test_a_blamed_answer_is_not_replayed_any_more():
    row = make_examples(100)[0]
    blamed = give_feedback(str(row.input), row.output, FeedbackSignal.failure())
    assert row.input not in replay_outputs(build_knowledge(ExamplesGiven((row,), NOW), blamed))


def test_a_pin_is_asked_and_held_out_of_any_training():
    pins = make_examples(2)
    knowledge = build_knowledge(Pinned(pins, NOW), ExamplesGiven(make_examples(100), NOW))
    assert prompts(knowledge, ProbeKind.PINNED) == {"row 0", "row 1"}
    assert not {"row 0", "row 1"} & set(replay_outputs(knowledge))
    assert {0, 1} <= build_knowledge(Pinned(pins, NOW)).select_held_out(make_examples(100))
    assert not prompts(
        build_knowledge(Pinned(pins, NOW), Unpinned(("row 0", "row 1"), NOW)), ProbeKind.PINNED
    )


def test_pins_come_first_and_have_places():
    knowledge = build_knowledge(
        ExamplesGiven(make_examples(100), NOW), Pinned(make_examples(1, 500), NOW)
    )
    assert knowledge.list_probes()[0].ref == ExampleRef(2, 0)
    assert knowledge.pins == [*make_examples(1, 500)]


def test_too_many_pins_and_strangers_are_refused():
    with pytest.raises(InvalidInput, match="257 pinned"):
        check_pins(make_examples(MAX_PINS), Pinned(make_examples(1, 900), NOW))
    check_pins(make_examples(MAX_PINS), Pinned(make_examples(1), NOW))
    with pytest.raises(NotFound):
        check_pins(make_examples(1), Unpinned(("row 7",), NOW))
