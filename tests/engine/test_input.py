"""The engine reads what people have: dicts, files, frames, lists of messages, configs as dicts."""

import json

import pandas
import pytest

from ouroboros.domain.config import TrainingConfig
from ouroboros.domain.data import Message, TrainingExample
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.registry import Registry
from ouroboros.stores.blobs.memory import MemoryBlobs
from ouroboros.stores.metadata.memory import MemoryMetadata
from ouroboros.testing.backend import FakeBackend

ROWS = [{"question": "a", "answer": "b"}]
EXAMPLES = (TrainingExample("a", "b"),)


@pytest.fixture
async def engine():
    engine = AdapterLearningEngine(FakeBackend(), Registry(MemoryMetadata(), MemoryBlobs()))
    (await engine.create_adapter("tickets")).unwrap()
    return engine


@pytest.mark.parametrize("make", [list, iter, pandas.DataFrame, "path", "text"])
async def test_training_reads_dicts_files_and_frames(engine, tmp_path, make):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[0]))
    source = {"path": path, "text": str(path)}.get(make) or make(ROWS)
    job = (await engine.submit_training("tickets", source)).unwrap()
    (entry,) = await engine._registry.journal.read(job.adapter)
    assert entry.event.examples == EXAMPLES


async def test_evaluations_and_pins_read_dicts(engine):
    assert (await engine.pin_answers("tickets", ROWS)).unwrap() == list(EXAMPLES)
    assert (await engine.evaluate_adapter("tickets", ROWS)).unwrap().rows == 1


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        ([{"prompt": "a"}], "invalid_example", "Row 1: The example has no 'completion'"),
        ([EXAMPLES[0], {"prompt": "a"}], "invalid_example", "Row 2"),
        ("absent.jsonl", "invalid_file", "cannot be read"),
        ({"train": ROWS}, "invalid_input", "a dict with the keys train"),
        (None, "invalid_input", "NoneType"),
        ([], "invalid_example", "no examples"),
    ],
)
async def test_what_cannot_be_read_is_an_error_in_words(engine, source, code, message):
    error = (await engine.train_adapter("tickets", source)).error
    assert error.code == code
    assert message in error.message


async def test_a_config_can_be_a_dict_of_single_fields(engine):
    job = (await engine.submit_training("tickets", ROWS, {"epochs": 3})).unwrap()
    assert job.training == TrainingConfig.auto(1, epochs=3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"epoch": 3}, "A training has no field 'epoch'. Did you mean epochs?"),
        ({"epochs": -1}, "epochs is -1"),
        (3, "The config is of the type int"),
    ],
)
async def test_a_wrong_config_is_an_error_in_words(engine, config, message):
    error = (await engine.train_adapter("tickets", ROWS, config)).error
    assert error.code == "invalid_config"
    assert message in str(error)


@pytest.mark.parametrize("turn", [{"role": "user", "content": "Hi"}, Message("user", "Hi")])
async def test_a_prompt_can_be_a_list_of_messages(engine, turn):
    answer = (await engine.generate_with_adapter([turn], "tickets")).unwrap()
    assert answer.text == (await engine.generate_with_adapter("Hi", "tickets")).unwrap().text
    ticket = (await engine.record_feedback([turn], "x", FeedbackSignal.failure(), "tickets")).unwrap()
    (entry,) = await engine._registry.journal.read(ticket.adapter)
    assert entry.event.prompt == "Hi"


async def test_a_prompt_of_something_else_is_an_error_in_words(engine):
    error = (await engine.generate_with_adapter([{"role": "user"}], "tickets")).error
    assert error.code == "invalid_example"
    assert "keys role and content" in error.message
