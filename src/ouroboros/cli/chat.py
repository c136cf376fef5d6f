"""`ouroboros chat NAME`."""

import asyncio
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ouroboros.build import open_engine
from ouroboros.cli.output import Output, write_note
from ouroboros.cli.store import require_store
from ouroboros.domain.errors import InvalidInput, OuroborosError
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.generation import Generation, GenerationConfig
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.engine import AdapterLearningEngine
from ouroboros.settings import Settings

NAME = "chat"
HELP = "chat with an adapter and correct its answers as you go"
EXAMPLES = """\
  ouroboros chat tickets

The adapter answers each line. A line that starts with / is a command:
  /fix team-parcel     the last answer should have been this
  /good, /bad          the last answer was right, or wrong
  /undo                go back to the version before the last lesson
  /help, /quit"""

_HELP = "/fix TEXT corrects the last answer, /good and /bad judge it, /undo takes that back, /quit ends"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the adapter")
    parser.add_argument(
        "--max-tokens", type=int, default=64, metavar="N", help="longest answer, in tokens (64)"
    )


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    require_store(settings)
    async with open_engine(settings) as engine:
        adapter = (await engine.get_adapter(options.name)).unwrap()
        with out.waiting(f"Loading {settings.model}"):
            (await engine.base()).unwrap()
        chat = Chat(engine, adapter.id, GenerationConfig(max_tokens=options.max_tokens), out)
        out.note(f"Chatting with {adapter.id}@{adapter.head}. {_HELP}.")
        while (line := await read_line()) is not None:
            if not await chat.handle_line(line.strip()):
                return


async def read_line() -> str | None:
    """Reads the next line, or None at the end of input. Only a terminal gets a prompt."""
    if sys.stdin is None:
        return None
    if sys.stdin.isatty():
        write_note("> ")
    try:
        line = await asyncio.to_thread(sys.stdin.readline)
        line.encode()  # bytes that are not text may be read as surrogates
    except UnicodeError:
        raise InvalidInput(
            "A line of standard input is not UTF-8.", hint="Check the encoding of your terminal."
        ) from None
    return line or None


@dataclass
class Chat:
    """One conversation. Commands judge the last prompt and answer."""

    engine: AdapterLearningEngine
    adapter: AdapterId
    config: GenerationConfig
    out: Output
    prompt: str = ""
    answer: Generation | None = None

    async def handle_line(self, line: str) -> bool:
        """Handles one line; returns False when the conversation ends. Errors are printed."""
        if not line:
            return True
        word, _, rest = line.partition(" ")
        if word in ("/quit", "/exit"):
            return False
        try:
            await self._run_command(word, rest.strip()) if line.startswith("/") else await self._ask(
                line
            )
        except OuroborosError as error:
            self.out.error(error)
        return True

    async def _ask(self, prompt: str) -> None:
        self.answer = await self._generate(prompt)
        self.prompt = prompt
        self.out.result({"answer": self.answer.text}, self.answer.text)

    async def _run_command(self, word: str, rest: str) -> None:
        commands: dict[str, Callable[[], Awaitable[None]]] = {
            "/fix": lambda: self._teach(FeedbackSignal.user_correction(rest)),
            "/good": lambda: self._teach(FeedbackSignal.success()),
            "/bad": lambda: self._teach(FeedbackSignal.failure()),
            "/undo": self._undo,
        }
        if word in commands:
            await commands[word]()
        else:
            self.out.note(f"{_HELP}.")

    async def _teach(self, signal: FeedbackSignal) -> None:
        """Learns from a judgement and prints the answer before and after."""
        if self.answer is None:
            return self.out.note("Ask something first.")
        before = self.answer.text
        result = await self.engine.learn_from_feedback(self.prompt, self.answer, signal, self.adapter)
        ticket = result.unwrap()
        self.answer = after = await self._generate(self.prompt)
        lesson = ticket.lesson.words if ticket.lesson else ""
        served = str(ticket.version.ref) if ticket.version else ""
        self.out.result(
            {"before": before, "after": after.text, "lesson": lesson, "version": served},
            f"  {lesson}",
            f"  before: {before}",
            f"  after:  {after.text}   ({served})",
        )
        return None

    async def _undo(self) -> None:
        """Rolls back to the head's parent and prints its answer."""
        versions = (await self.engine.get_versions(self.adapter)).unwrap()
        head = (await self.engine.get_adapter(self.adapter)).unwrap().head
        (current,) = (v for v in versions if v.number == head)
        if current.parent is None:
            return self.out.note("There is no earlier version.")
        parent = VersionRef(self.adapter, current.parent)
        adapter = (await self.engine.rollback_adapter(parent)).unwrap()
        if self.answer is not None:
            self.answer = await self._generate(self.prompt)
        text = self.answer.text if self.answer else None
        self.out.result(
            {"head": adapter.head, "answer": text},
            f"  {adapter.id} now serves @{adapter.head}.",
            *([f"  now:    {text}"] if text is not None else []),
        )
        return None

    async def _generate(self, prompt: str) -> Generation:
        return (await self.engine.generate_with_adapter(prompt, self.adapter, self.config)).unwrap()
