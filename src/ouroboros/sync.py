"""`SyncEngine`: the engine for scripts and notebooks, where nothing is awaited."""

import asyncio
import functools
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from ouroboros.engine import AdapterLearningEngine

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    verb: Callable[Concatenate[AdapterLearningEngine, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["SyncEngine", P], T]:
    """The same verb, with the same arguments, that returns when it is done."""

    @functools.wraps(verb)
    def call(self: "SyncEngine", *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(verb(self._engine, *args, **kwargs))

    return call


def _iterating(
    verb: Callable[Concatenate[AdapterLearningEngine, P], AsyncIterator[T]],
) -> Callable[Concatenate["SyncEngine", P], Iterator[T]]:
    """The same pieces, one after the other; leaving the loop early stops the verb."""

    @functools.wraps(verb)
    def call(self: "SyncEngine", *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        pieces = verb(self._engine, *args, **kwargs)
        try:
            while (piece := self._run(anext(pieces, None))) is not None:  # type: ignore[arg-type]
                yield piece
        finally:
            self._run(pieces.aclose())  # type: ignore[attr-defined]  # an async generator has it

    return call


class SyncEngine:
    """The engine's verbs, blocking. Works inside a notebook too: the engine has a loop of its own.

    Ctrl-C during a verb cancels it as asyncio would.
    """

    base = _blocking(AdapterLearningEngine.base)
    create_adapter = _blocking(AdapterLearningEngine.create_adapter)
    train_adapter = _blocking(AdapterLearningEngine.train_adapter)
    learn_from_feedback = _blocking(AdapterLearningEngine.learn_from_feedback)
    check_feedback = _blocking(AdapterLearningEngine.check_feedback)
    record_feedback = _blocking(AdapterLearningEngine.record_feedback)
    look_up_feedback = _blocking(AdapterLearningEngine.look_up_feedback)
    feedback_outcome = _blocking(AdapterLearningEngine.feedback_outcome)
    learn_pending = _blocking(AdapterLearningEngine.learn_pending)
    generate_with_adapter = _blocking(AdapterLearningEngine.generate_with_adapter)
    stream_with_adapter = _iterating(AdapterLearningEngine.stream_with_adapter)
    get_instructions = _blocking(AdapterLearningEngine.get_instructions)
    evaluate_adapter = _blocking(AdapterLearningEngine.evaluate_adapter)
    merge_adapters = _blocking(AdapterLearningEngine.merge_adapters)
    shrink_adapter_files = _blocking(AdapterLearningEngine.shrink_adapter_files)
    import_adapter = _blocking(AdapterLearningEngine.import_adapter)
    export_adapter = _blocking(AdapterLearningEngine.export_adapter)
    find_adapters = _blocking(AdapterLearningEngine.find_adapters)
    pin_answers = _blocking(AdapterLearningEngine.pin_answers)
    unpin_answers = _blocking(AdapterLearningEngine.unpin_answers)
    get_probes = _blocking(AdapterLearningEngine.get_probes)
    explain_version = _blocking(AdapterLearningEngine.explain_version)
    list_adapters = _blocking(AdapterLearningEngine.list_adapters)
    get_adapter = _blocking(AdapterLearningEngine.get_adapter)
    get_versions = _blocking(AdapterLearningEngine.get_versions)
    get_version = _blocking(AdapterLearningEngine.get_version)
    get_moves = _blocking(AdapterLearningEngine.get_moves)
    read_journal = _blocking(AdapterLearningEngine.read_journal)
    list_last_events = _blocking(AdapterLearningEngine.list_last_events)
    get_lineage = _blocking(AdapterLearningEngine.get_lineage)
    get_events = _blocking(AdapterLearningEngine.get_events)
    compare_versions = _blocking(AdapterLearningEngine.compare_versions)
    rollback_adapter = _blocking(AdapterLearningEngine.rollback_adapter)
    delete_adapter = _blocking(AdapterLearningEngine.delete_adapter)
    list_jobs = _blocking(AdapterLearningEngine.list_jobs)
    submit_training = _blocking(AdapterLearningEngine.submit_training)
    resume_job = _blocking(AdapterLearningEngine.resume_job)
    pause_job = _blocking(AdapterLearningEngine.pause_job)
    cancel_job = _blocking(AdapterLearningEngine.cancel_job)
    track_adapter = _blocking(AdapterLearningEngine.track_adapter)
    rebuild_version = _blocking(AdapterLearningEngine.rebuild_version)
    forget_events = _blocking(AdapterLearningEngine.forget_events)
    forget_user = _blocking(AdapterLearningEngine.forget_user)
    check_store = _blocking(AdapterLearningEngine.check_store)
    repair_store = _blocking(AdapterLearningEngine.repair_store)
    collect_garbage = _blocking(AdapterLearningEngine.collect_garbage)
    backup_store = _blocking(AdapterLearningEngine.backup_store)
    restore_store = _blocking(AdapterLearningEngine.restore_store)

    def __init__(self, engine: AdapterLearningEngine) -> None:
        self._engine = engine
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=_run_loop, args=(self._loop,), name="ouroboros-sync", daemon=True
        )
        self._thread.start()
        # An engine that nobody closed is closed when nobody can use it any more.
        self._closing = weakref.finalize(self, _close_soon, engine, self._loop, self._process)
        self._closing.atexit = False  # the system frees what an ending process holds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the engine and end its thread. Does nothing the second time, and in a forked process."""
        self._closing()
        if os.getpid() == self._process:
            self._thread.join()

    def _run(self, verb: Coroutine[Any, Any, T]) -> T:
        if not self._closing.alive or os.getpid() != self._process:
            return _first_step(verb)
        future = asyncio.run_coroutine_threadsafe(verb, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _close_soon(engine: AdapterLearningEngine, loop: asyncio.AbstractEventLoop, process: int) -> None:
    """Let the loop close the engine and stop; never waits, since a garbage collector may call it."""

    async def close_and_stop() -> None:
        try:
            await engine.close()
        finally:
            loop.stop()

    if os.getpid() == process:
        asyncio.run_coroutine_threadsafe(close_and_stop(), loop)


def _first_step(verb: Coroutine[Any, Any, T]) -> T:
    """Run a verb that refuses before it waits for anything: its loop has ended, or is in the parent."""
    try:
        verb.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("A verb of a closed engine did not refuse.")
