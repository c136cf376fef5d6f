"""The machine is asked once what it multiplies faster, and takes the answer again."""

import json
from pathlib import Path

import pytest
import torch

from ouroboros.backend.local.model.dtype import (
    MIN_GAIN,
    compute_dtype,
    load_or_measure,
    measure_bfloat16_gain,
)

CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ouroboros" / "precision.json"


def test_the_measured_type_is_kept_and_taken_again(cache: Path):
    first = compute_dtype("auto", CPU)
    ((machine, gain),) = json.loads(cache.read_text()).items()
    assert torch.__version__ in machine
    assert (first == torch.bfloat16) == (gain >= MIN_GAIN)
    for gain, expected in ((MIN_GAIN, torch.bfloat16), (MIN_GAIN - 0.01, torch.float32)):
        cache.write_text(json.dumps({machine: gain}))
        assert compute_dtype("auto", CPU) == expected


def test_what_is_named_is_not_measured(cache: Path):
    assert compute_dtype("float32", CPU) == torch.float32
    assert compute_dtype("bfloat16", CPU) == torch.bfloat16
    assert not cache.exists()


def test_a_machine_is_measured_once_and_others_are_kept(tmp_path: Path):
    file = tmp_path / "deep" / "precision.json"
    assert load_or_measure(file, "one", lambda: 2.0) == 2.0
    assert load_or_measure(file, "two", lambda: 0.5) == 0.5
    assert load_or_measure(file, "one", lambda: pytest.fail("again")) == 2.0
    assert load_or_measure(file, "two", lambda: pytest.fail("again")) == 0.5


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"one": "fast"}', '{"one": null}'])
def test_a_damaged_file_is_measured_anew(tmp_path: Path, content: str):
    file = tmp_path / "precision.json"
    file.write_text(content)
    assert load_or_measure(file, "one", lambda: 2.0) == 2.0
    assert json.loads(file.read_text()) == {"one": 2.0}


def test_where_nothing_can_be_kept_it_is_measured_each_time(tmp_path: Path):
    (tmp_path / "file").write_text("")
    file = tmp_path / "file" / "precision.json"
    assert load_or_measure(file, "one", lambda: 2.0) == 2.0
    assert load_or_measure(file, "one", lambda: 3.0) == 3.0


def test_the_gain_is_a_ratio_of_times():
    assert 0 < measure_bfloat16_gain() < float("inf")
