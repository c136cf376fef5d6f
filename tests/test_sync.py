"""The blocking face offers every verb of the engine, under the same name."""

import gc
import inspect
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ouroboros import Err, Ok, open_engine, open_sync_engine
from ouroboros.domain.errors import InvalidInput
from ouroboros.engine import AdapterLearningEngine
from ouroboros.sync import SyncEngine


def _public(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, callable) if not name.startswith("_")}


def test_every_verb_has_a_blocking_form():
    assert _public(SyncEngine) == _public(AdapterLearningEngine)


def test_a_blocking_verb_keeps_its_documentation():
    assert SyncEngine.train_adapter.__doc__ == AdapterLearningEngine.train_adapter.__doc__


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SyncEngine]:
    with open_sync_engine(store=str(tmp_path / "store")) as engine:
        yield engine


def test_a_closed_engine_says_what_to_do(engine):
    assert engine.list_adapters() == Ok([])
    engine.close()
    engine.close()
    results = [
        engine.list_adapters(),
        engine.base(),
        engine.train_adapter("a", []),
        *engine.stream_with_adapter("hi", "a"),
    ]
    for result in results:
        assert isinstance(result, Err)
        assert isinstance(result.error, InvalidInput)
        assert "closed" in result.error.message
        assert "open_sync_engine" in result.error.hint


async def test_a_closed_engine_of_asyncio_says_so_too(tmp_path):
    engine = open_engine(store=str(tmp_path / "store"))
    await engine.close()
    await engine.close()
    pieces = [piece async for piece in engine.stream_with_adapter("hi", "a")]
    for result in (await engine.list_adapters(), *pieces):
        assert isinstance(result, Err)
        assert "closed" in result.error.message
    assert len(pieces) == 1


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_gets_an_error_and_does_not_wait(engine):
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        result = engine.list_adapters()
        engine.close()
        os.write(write_end, str(result).encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        assert "forked" in pipe.read().decode()
    os.waitpid(child, 0)
    assert engine.list_adapters() == Ok([])


def test_an_engine_that_nobody_closed_leaves_no_thread_and_no_descriptor(tmp_path):
    def use_engine(name: str) -> threading.Thread:
        engine = open_sync_engine(store=str(tmp_path / name))
        engine.list_adapters().unwrap()
        return engine._thread

    use_engine("warm-up").join()
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for i in range(3):
        thread = use_engine(f"store-{i}")
        gc.collect()
        thread.join(60)
        assert not thread.is_alive()
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("kind", [SyncEngine, AdapterLearningEngine])
def test_help_shows_the_result(kind):
    assert "Result[Version]" in str(inspect.signature(kind.train_adapter))
    assert "Result[list[Adapter]]" in str(inspect.signature(kind.list_adapters))


def test_what_the_system_causes_is_an_error_and_a_bug_raises(engine, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "store")

    monkeypatch.setattr(engine._engine._loader, "list_adapters", refuse)
    result = engine.learn_pending()
    assert isinstance(result, Err)
    assert result.error.code == "store_error"
    assert "Permission denied" in result.error.message
    monkeypatch.setattr(engine._engine._loader, "list_adapters", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.learn_pending()


def test_an_error_is_false_and_a_value_is_true():
    assert not Err(InvalidInput("no"))
    assert Ok(0)
    assert Ok([])
