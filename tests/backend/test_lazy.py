"""A backend that is opened when it is needed: every verb reaches the real one."""

import asyncio
import inspect
from typing import Any

import pytest

from ouroboros.backend.base import Backend
from ouroboros.backend.lazy import LazyBackend
from ouroboros.domain.errors import ModelError

VERBS = {n for n, f in inspect.getmembers(Backend, inspect.isfunction) if not n.startswith("_")}


class Recorder:
    """Stands for any backend: answers each verb with its name and arguments."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Any:
        async def verb(*arguments: object) -> tuple[object, ...]:
            self.called.append(name)
            return arguments

        async def stream(*arguments: object):
            self.called.append(name)
            yield arguments

        return stream if name == "stream" else verb


def arguments_of(verb: str) -> list[str]:
    return [p for p in inspect.signature(getattr(Backend, verb)).parameters if p != "self"]


@pytest.mark.parametrize("verb", sorted(VERBS - {"is_loaded", "close", "stream"}))
async def test_a_verb_is_handed_on_as_it_is(verb):
    recorder = Recorder()
    lazy = LazyBackend(lambda: recorder)  # type: ignore[arg-type,return-value]
    arguments = tuple(arguments_of(verb))
    answer = await getattr(lazy, verb)(*arguments)
    assert recorder.called == [verb]
    assert answer in (arguments, None)


async def test_a_stream_is_handed_on():
    lazy = LazyBackend(Recorder)  # type: ignore[arg-type]
    assert [piece async for piece in lazy.stream("request", None)] == [("request", None)]  # type: ignore[arg-type,comparison-overlap]


async def test_nothing_is_opened_to_ask_what_is_loaded_or_to_close():
    def fail() -> Backend:
        raise AssertionError("opened")

    lazy = LazyBackend(fail)
    assert await lazy.is_loaded("digest") is False
    await lazy.close()


async def test_verbs_at_once_open_one_backend_and_closing_closes_it():
    recorder = Recorder()
    opened: list[Recorder] = []

    def open() -> Backend:
        opened.append(recorder)
        return recorder  # type: ignore[return-value]

    lazy = LazyBackend(open)
    await asyncio.gather(*(lazy.base() for _ in range(5)))
    await lazy.is_loaded("digest")
    await lazy.close()
    assert len(opened) == 1
    assert recorder.called == ["base"] * 5 + ["is_loaded", "close"]


async def test_a_failed_opening_is_tried_again():
    answers: list[Any] = [ModelError("no such model"), Recorder()]

    def open() -> Backend:
        answer = answers.pop(0)
        if isinstance(answer, ModelError):
            raise answer
        return answer

    lazy = LazyBackend(open)
    with pytest.raises(ModelError):
        await lazy.base()
    await lazy.base()
