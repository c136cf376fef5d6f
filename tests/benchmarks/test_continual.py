"""The continual benchmark's own arithmetic: metrics of a known table, streams that are what they say."""

import json

import pytest

from benchmarks.continual import StreamRun, _draw
from benchmarks.continual.metrics import summarise
from benchmarks.continual.streams import Cut, stream

CUT = Cut(stages=3, classes=2, train=4, test=2)


def test_the_metrics_of_a_table():
    metrics = summarise([[0.9], [0.5, 0.8], [0.7, 0.6, 1.0]], alone=[0.8, 0.9, 0.9])
    assert metrics.ap == pytest.approx((0.7 + 0.6 + 1.0) / 3)
    assert metrics.diagonal == pytest.approx(0.9)
    assert metrics.bwt == pytest.approx(((0.7 - 0.9) + (0.6 - 0.8)) / 2)
    assert metrics.forgetting == pytest.approx(((0.9 - 0.7) + (0.8 - 0.6)) / 2)
    assert metrics.fwt == pytest.approx((0.1 - 0.1 + 0.1) / 3)


def test_what_can_be_drawn_is_drawn(tmp_path):
    """Joint training alone has no table by stages; the curve stands without one."""
    joint = StreamRun([[0.9, 0.8]], drift=0.0, size=0, seconds=0.0)
    _draw(tmp_path, {"joint": [joint]}, {"ours": [(0.0, 0.1), (0.2, 0.6)]})
    assert [f.name for f in tmp_path.iterdir()] == ["continual-curve.png"]


@pytest.fixture
def intents(tmp_path):
    for part, rows in (("train", 6), ("test", 3)):
        (tmp_path / part).mkdir()
        labels = [label for label in "abcdefgh" for _ in range(rows)]
        texts = [f"{part} {label} {i}" for i, label in enumerate(labels)]
        (tmp_path / part / "label").write_text("\n".join(labels) + "\n")
        (tmp_path / part / "seq.in").write_text("\n".join(texts) + "\n")
    return tmp_path


def test_stages_share_no_class_and_codes_tell_nothing(intents):
    stages = stream(str(intents), CUT, seed=0)
    outputs = [{e.output for e in s.train} for s in stages]
    assert [len(s.train) for s in stages] == [8, 8, 8]
    assert [len(s.test) for s in stages] == [4, 4, 4]
    assert all(
        {e.output for e in s.test} == expected for s, expected in zip(stages, outputs, strict=True)
    )
    assert len(set.union(*outputs)) == 6
    assert len({code[0:2] for code in set.union(*outputs)}) == 6


def test_a_seed_gives_the_same_stream_and_another_a_different_one(intents):
    assert stream(str(intents), CUT, 1) == stream(str(intents), CUT, 1)
    assert stream(str(intents), CUT, 1) != stream(str(intents), CUT, 2)


def test_any_jsonl_is_a_stream(tmp_path):
    file = tmp_path / "own.jsonl"
    rows = [{"task": t, "input": f"{t} {i}", "output": f"o{i}"} for t in ("x", "y") for i in range(9)]
    file.write_text("\n".join(map(json.dumps, rows)))
    stages = stream(str(file), CUT, 0)
    assert [s.name for s in stages] == ["x", "y"]
    assert [(len(s.train), len(s.test)) for s in stages] == [(6, 3), (6, 3)]
    assert not {e.input for e in stages[0].train} & {e.input for e in stages[0].test}


def test_of_superni_the_tasks_of_labels_are_taken_and_of_several_answers_the_first(tmp_path):
    for task, output in (("labels", "yes"), ("choices", ["A", "B"]), ("stories", ["Once " * 9])):
        (tmp_path / task).mkdir()
        rows = [{"input": f"{task} {i}", "output": output} for i in range(9)]
        (tmp_path / task / "test.json").write_text(json.dumps({"Instances": rows}))
    stages = stream(str(tmp_path), CUT, 0)
    assert [(s.name, s.train[0].output) for s in stages] == [("choices", "A"), ("labels", "yes")]
