"""`ouroboros chat NAME`."""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ouroboros.cli import describe
from ouroboros.cli.output import Output, write_note
from ouroboros.cli.store import open_engine, require_store
from ouroboros.cli.streaming import LONGEST, print_stream
from ouroboros.domain.checks import suggest_nearest
from ouroboros.domain.data import Message, Prompt
from ouroboros.domain.errors import InvalidInput, OuroborosError
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.generation import Generation, GenerationConfig
from ouroboros.domain.names import VersionRef
from ouroboros.settings import Settings

if TYPE_CHECKING:
    from ouroboros.engine import AdapterLearningEngine

NAME = "chat"
HELP = "chat with an adapter and correct its answers as you go"
EXAMPLES = """\
  ouroboros chat tickets
  ouroboros chat tickets@2             talk to version 2
  ouroboros chat tickets --system "Answer with the team's name."

The adapter answers each line and remembers the conversation. A line that starts with / is a command:
  /fix team-parcel     the last answer should have been this
  /good, /bad          the last answer was right, or wrong
  /undo                go back to the version before the last lesson
  /regenerate          another answer to the same question
  /system TEXT         instructions for the conversation, which begins anew
  /reset               begin anew: forget the conversation
  /help, /quit"""

_HELP = (
    "/fix TEXT corrects the last answer, /good and /bad judge it, /undo takes that back,"
    " /regenerate asks again, /reset forgets the conversation, /system TEXT instructs it, /quit ends"
)


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the adapter")
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=LONGEST,
        metavar="N",
        help="longest answer, in tokens (default: to its end or the model's context)",
    )
    parser.add_argument(
        "--system",
        metavar="TEXT",
        help="instructions for the conversation, instead of those of the training; empty for none",
    )


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    require_store(settings)
    async with open_engine(settings) as engine:
        (await engine.get_adapter(options.name.partition("@")[0])).unwrap()
        with out.waiting(f"Loading {settings.model}"):
            (await engine.base()).unwrap()
        ref = VersionRef.parse(options.name)
        version = (await engine.get_version(ref)).unwrap()
        config = GenerationConfig(max_tokens=options.max_tokens)
        trained = (await engine.get_instructions(version.ref)).unwrap()
        system = trained if options.system is None else options.system
        chat = Chat(engine, ref, config, out, system, trained)
        out.note(f"Chatting with {version.ref}. {_HELP}.")
        if system:
            out.note(f"Instructions: {describe.one_line(system)}")
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
    """One conversation. Commands judge the last question and answer.

    `ref` is what the user named: an adapter, of which the served version answers, or one version.
    """

    engine: AdapterLearningEngine
    ref: VersionRef
    config: GenerationConfig
    out: Output
    system: str = ""
    trained: str = ""
    """The instructions of the version's training, which plain text would be asked under."""
    turns: list[Message] = field(default_factory=list)
    """What was said before the last question, without the system's turn."""
    question: str = ""
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

    async def _ask(self, question: str) -> None:
        """Answers a line; a question that cannot be answered is no part of the conversation."""
        turns = list(self.turns)
        if self.answer is not None:
            turns += [Message("user", self.question), Message("assistant", self.answer.text)]
        answer = await self._print_answer(self._prompt(turns, question), self.config)
        self.turns, self.question, self.answer = turns, question, answer

    async def _run_command(self, word: str, rest: str) -> None:
        commands: dict[str, Callable[[], Awaitable[None]]] = {
            "/fix": lambda: self._teach(FeedbackSignal.user_correction(rest)),
            "/good": lambda: self._teach(FeedbackSignal.success()),
            "/bad": lambda: self._teach(FeedbackSignal.failure()),
            "/undo": self._undo,
            "/regenerate": self._regenerate,
            "/reset": lambda: self._reset(self.system),
            "/system": lambda: self._reset(rest),
        }
        if word in commands:
            await commands[word]()
        elif word == "/help":
            self.out.note(f"{_HELP}.")
        else:
            hint = suggest_nearest(word, [*commands, "/help", "/quit"])
            self.out.note(f"There is no command {word[:80]}. {hint}")

    async def _reset(self, system: str) -> None:
        """Begins a new conversation."""
        self.system, self.turns, self.question, self.answer = system, [], "", None
        self.out.note("The conversation begins anew." + (f" Instructions: {system}" if system else ""))

    async def _regenerate(self) -> None:
        """Samples another answer to the last question, which replaces the one before."""
        if self.answer is None:
            return self.out.note("Ask something first.")
        sampled = replace(self.config, temperature=0.8)
        self.answer = await self._print_answer(self._last_prompt(), sampled)
        return None

    async def _teach(self, signal: FeedbackSignal) -> None:
        """Learns from a judgement and prints the answer before and after."""
        if self.answer is None:
            return self.out.note("Ask something first.")
        before, prompt = self.answer.text, self._last_prompt()
        result = await self.engine.learn_from_feedback(prompt, self.answer, signal, self.ref.adapter)
        ticket = result.unwrap()
        served = str(ticket.version.ref) if ticket.version else ""
        if ticket.version and self.ref.number is not None:
            self.ref = ticket.version.ref  # the lesson is heard in the version that learned it
        self.answer = after = await self._generate(prompt)
        lesson = ticket.lesson.words if ticket.lesson else ""
        self.out.result(
            {"before": before, "after": after.text, "lesson": lesson, "version": served},
            f"  {lesson}",
            f"  before: {before}",
            f"  after:  {after.text}   ({served})",
        )
        return None

    async def _undo(self) -> None:
        """Rolls back to the head's parent and prints its answer."""
        versions = (await self.engine.get_versions(self.ref.adapter)).unwrap()
        head = (await self.engine.get_adapter(self.ref.adapter)).unwrap().head
        (current,) = (v for v in versions if v.number == head)
        if current.parent is None:
            return self.out.note("There is no earlier version.")
        parent = VersionRef(self.ref.adapter, current.parent)
        adapter = (await self.engine.rollback_adapter(parent)).unwrap()
        if self.ref.number is not None:
            self.ref = parent
        if self.answer is not None:
            self.answer = await self._generate(self._last_prompt())
        text = self.answer.text if self.answer else None
        self.out.result(
            {"head": adapter.head, "answer": text},
            f"  {adapter.id} now serves @{adapter.head}.",
            *([f"  now:    {text}"] if text is not None else []),
        )
        return None

    def _last_prompt(self) -> Prompt:
        return self._prompt(self.turns, self.question)

    def _prompt(self, turns: Sequence[Message], question: str) -> Prompt:
        """Returns a question with what was said before it; a bare one stays plain text."""
        if not (turns or self.system or self.trained):
            return question
        system = [Message("system", self.system)] if self.system else []
        return (*system, *turns, Message("user", question))

    async def _print_answer(self, prompt: Prompt, config: GenerationConfig) -> Generation:
        """Answers a prompt: piece by piece on a terminal, else whole."""
        if not self.out.as_json and sys.stdout is not None and sys.stdout.isatty():
            answer = await print_stream(self.engine, prompt, self.ref, config, self.out)
            if answer is not None:
                return answer
        answer = (await self.engine.generate_with_adapter(prompt, self.ref, config)).unwrap()
        self.out.result({"answer": answer.text}, answer.text)
        return answer

    async def _generate(self, prompt: Prompt) -> Generation:
        return (await self.engine.generate_with_adapter(prompt, self.ref, self.config)).unwrap()
