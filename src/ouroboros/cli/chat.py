"""`ouroboros chat NAME`."""

import asyncio
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ouroboros.build import open_engine
from ouroboros.cli.output import Output
from ouroboros.cli.store import require_store
from ouroboros.domain.errors import OuroborosError
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.generation import Generation, GenerationConfig
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.engine import AdapterLearningEngine
from ouroboros.settings import Settings

NAME = "chat"
HELP = "talk to an adapter and teach it as you go"
EXAMPLES = """\
  ouroboros chat tickets

what you type is answered; a line that starts with / teaches:
  /fix team-parcel     the last answer should have been this
  /good, /bad          the last answer was right, was wrong
  /undo                serve the version before the last lesson again
  /help, /quit"""

_HELP = "/fix TEXT corrects the last answer, /good and /bad judge it, /undo takes a lesson back; /quit"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the adapter")
    parser.add_argument("--max-tokens", type=int, default=64, metavar="N", help="tokens of an answer")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    require_store(settings)
    async with open_engine(settings) as engine:
        adapter = (await engine.get_adapter(options.name)).unwrap()
        with out.waiting(f"Loading {settings.model}"):
            (await engine.base()).unwrap()
        chat = Chat(engine, adapter.id, GenerationConfig(max_tokens=options.max_tokens), out)
        out.note(f"Talking to {adapter.id}@{adapter.head}. {_HELP}")
        while (line := await _read()) is not None:
            if not await chat.take(line.strip()):
                return


async def _read() -> str | None:
    """The next line, None at the end of input. The prompt is shown to people only."""
    if sys.stdin.isatty():
        print("> ", end="", flush=True, file=sys.stderr)
    line = await asyncio.to_thread(sys.stdin.readline)
    return line or None


@dataclass
class Chat:
    """One conversation: the last prompt and answer are what a lesson is about."""

    engine: AdapterLearningEngine
    adapter: AdapterId
    config: GenerationConfig
    out: Output
    prompt: str = ""
    answer: Generation | None = None

    async def take(self, line: str) -> bool:
        """Answer or obey one line; False when it ends the conversation. Errors are told, not raised."""
        if not line:
            return True
        word, _, rest = line.partition(" ")
        if word in ("/quit", "/exit"):
            return False
        try:
            await self._obey(word, rest.strip()) if line.startswith("/") else await self._ask(line)
        except OuroborosError as error:
            self.out.error(error)
        return True

    async def _ask(self, prompt: str) -> None:
        self.answer = await self._say(prompt)
        self.prompt = prompt
        self.out.result({"answer": self.answer.text}, self.answer.text)

    async def _obey(self, word: str, rest: str) -> None:
        commands: dict[str, Callable[[], Awaitable[None]]] = {
            "/fix": lambda: self._teach(FeedbackSignal.user_correction(rest)),
            "/good": lambda: self._teach(FeedbackSignal.success()),
            "/bad": lambda: self._teach(FeedbackSignal.failure()),
            "/undo": self._undo,
        }
        if word in commands:
            await commands[word]()
        else:
            self.out.note(_HELP)

    async def _teach(self, signal: FeedbackSignal) -> None:
        """Learn, and show the answer before and after."""
        if self.answer is None:
            return self.out.note("Ask something first.")
        before = self.answer.text
        given = await self.engine.learn_from_feedback(self.prompt, self.answer, signal, self.adapter)
        ticket = given.unwrap()
        self.answer = after = await self._say(self.prompt)
        words = ticket.lesson.words if ticket.lesson else ""
        served = str(ticket.version.ref) if ticket.version else ""
        self.out.result(
            {"before": before, "after": after.text, "lesson": words, "version": served},
            f"  {words}",
            f"  before: {before}",
            f"  after:  {after.text}   ({served})",
        )
        return None

    async def _undo(self) -> None:
        """Serve the head's parent again, and show what it says."""
        versions = (await self.engine.get_versions(self.adapter)).unwrap()
        head = (await self.engine.get_adapter(self.adapter)).unwrap().head
        (current,) = (v for v in versions if v.number == head)
        if current.parent is None:
            return self.out.note("There is no earlier version.")
        back = VersionRef(self.adapter, current.parent)
        adapter = (await self.engine.rollback_adapter(back)).unwrap()
        if self.answer is not None:
            self.answer = await self._say(self.prompt)
        now = self.answer.text if self.answer else None
        self.out.result(
            {"head": adapter.head, "answer": now},
            f"  {adapter.id} serves @{adapter.head} again.",
            *([f"  now:    {now}"] if now is not None else []),
        )
        return None

    async def _say(self, prompt: str) -> Generation:
        return (await self.engine.generate_with_adapter(prompt, self.adapter, self.config)).unwrap()
