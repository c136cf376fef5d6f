"""`ouroboros feedback NAME`."""

from __future__ import annotations

import asyncio
import shlex
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ouroboros.cli import describe
from ouroboros.cli.output import Output, program_name
from ouroboros.cli.store import open_engine, require_store
from ouroboros.data.reader import ParsedData, RefusedRow, read_data
from ouroboros.domain.errors import InvalidInput
from ouroboros.domain.feedback import FeedbackSignal, RecordedFeedback
from ouroboros.domain.records import Ticket
from ouroboros.settings import Settings

if TYPE_CHECKING:
    from ouroboros.engine import AdapterLearningEngine

NAME = "feedback"
HELP = "teach an adapter what was right or wrong about its answers"
EXAMPLES = """\
  ouroboros feedback tickets "Where is my parcel?" --fix team-parcel
  ouroboros feedback tickets "Where is my parcel?" --answer team-keys --bad
  ouroboros feedback tickets "Where is my parcel?" --good 0.8 --user ann
  ouroboros feedback tickets "Say hello" --chosen "Hi!" --rejected "Greetings."
  ouroboros feedback tickets --file judgements.jsonl
  ouroboros feedback tickets --pending             learn what an interrupted run did not

Without --answer the adapter answers first, and you judge that answer. A line of a file looks like
  {"prompt": "Where is my parcel?", "answer": "team-keys", "correction": "team-parcel", "user": "ann"}"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the adapter")
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="the prompt")
    parser.add_argument("--answer", metavar="TEXT", help="the answer that is judged")
    parser.add_argument("--fix", metavar="TEXT", help="what the answer should have been")
    parser.add_argument(
        "--good",
        metavar="0..1",
        type=float,
        nargs="?",
        const=1.0,
        help="the answer was right; how right, from 0 to 1",
    )
    parser.add_argument("--bad", action="store_true", help="the answer was wrong")
    parser.add_argument("--score", metavar="0..1", type=float, help="how good the answer was")
    parser.add_argument("--critique", metavar="TEXT", help="a comment that is stored but not learned")
    parser.add_argument("--chosen", metavar="TEXT", help="the better of two answers")
    parser.add_argument("--rejected", metavar="TEXT", help="the worse of two answers")
    parser.add_argument("--user", metavar="NAME", help="who judges")
    parser.add_argument("--key", metavar="KEY", help="judgements with the same key count once")
    parser.add_argument("--file", metavar="FILE", type=Path, help="judgements as JSON lines")
    parser.add_argument(
        "--pending", action="store_true", help="learn judgements that are already in the journal"
    )


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    judgements = read_options(options)
    data = read_data(options.file) if options.file else None
    judgements = data.feedback() if data else judgements
    require_store(settings)
    async with open_engine(settings) as engine:
        head = (await engine.get_adapter(options.name)).unwrap().head
        with out.waiting(f"Loading {settings.model}"):
            (await engine.base()).unwrap()
        if options.pending:
            return await learn_pending(engine, options.name, out)
        if data:
            await check_all(engine, data)
        answers = [await with_answer(engine, options.name, j) for j in judgements]
        with out.waiting("Learning"):
            tickets = await submit_all(engine, options.name, answers, out)
    return out.result([ticket_json(ticket) for ticket in tickets], *summarize_tickets(tickets, head))


def summarize_tickets(tickets: Sequence[Ticket], head: int) -> list[str]:
    """Returns one line for each outcome, with the number of judgements that had it.

    `head` was served before: tickets with no later version have changed nothing.
    """
    outcomes = Counter(format_ticket(ticket) for ticket in tickets)
    lines = [
        f"{outcome} ({number} judgements)" if number > 1 else outcome
        for outcome, number in outcomes.items()
    ]
    if all(ticket.version is None or ticket.version.number <= head for ticket in tickets):
        lines.append(f"Nothing changed: {tickets[0].adapter} still serves @{head}.")
    return lines


def ticket_json(ticket: Ticket) -> dict[str, Any]:
    """Returns a ticket as JSON."""
    return {
        "event": ticket.event,
        "lesson": ticket.lesson.words if ticket.lesson else None,
        "version": str(ticket.version.ref) if ticket.version else None,
    }


def read_options(options: Namespace) -> list[RecordedFeedback]:
    """Returns the judgements that the options name. A missing answer is generated later."""
    if (options.chosen is None) != (options.rejected is None):
        raise InvalidInput(
            "Only one of two answers is given.", hint="Give --chosen and --rejected together."
        )
    signals = read_signals(options)
    if sum((bool(signals), bool(options.file), options.pending)) != 1 or len(signals) > 1:
        raise InvalidInput(
            "Give one judgement, a --file of them, or --pending.",
            hint="See: ouroboros feedback --help",
        )
    if options.pending or options.file:
        return []
    if options.prompt is None:
        raise InvalidInput("The prompt is missing.", hint="Give the prompt whose answer you judge.")
    answer = options.rejected if options.answer is None else options.answer
    return [RecordedFeedback(options.prompt, answer, signals[0], options.user, options.key)]


def read_signals(options: Namespace) -> list[FeedbackSignal]:
    """Returns the signals that the options give."""
    signals = []
    if options.fix is not None:
        signals.append(FeedbackSignal.user_correction(options.fix))
    if options.good is not None:
        signals.append(FeedbackSignal.success(options.good))
    if options.bad:
        signals.append(FeedbackSignal.failure())
    if options.score is not None:
        signals.append(FeedbackSignal.preference(options.score))
    if options.critique is not None:
        signals.append(FeedbackSignal.critique(options.critique))
    if options.chosen is not None and options.rejected is not None:
        signals.append(FeedbackSignal.preference_pair(options.chosen, options.rejected))
    return signals


async def with_answer(
    engine: AdapterLearningEngine, name: str, judgement: RecordedFeedback
) -> tuple[RecordedFeedback, Any]:
    """Returns a judgement with its answer, or with the one that the adapter generates now."""
    if judgement.answer is not None:
        return judgement, judgement.answer
    return judgement, (await engine.generate_with_adapter(judgement.prompt, name)).unwrap()


async def check_all(engine: AdapterLearningEngine, data: ParsedData) -> None:
    """Raises an error that lists the lines that cannot be learned, before the first one is stored."""
    for row, j in zip(data.rows, data.feedback(), strict=True):
        checked = await engine.check_feedback(j.prompt, j.answer or "", j.signal, user=j.user, key=j.key)
        if not checked:
            data.refused.append(RefusedRow(row.location, checked.error.message, checked.error.hint))
    data.feedback()


async def submit_all(
    engine: AdapterLearningEngine,
    name: str,
    judgements: Sequence[tuple[RecordedFeedback, Any]],
    out: Output,
) -> list[Ticket]:
    """Submits all judgements before waiting, so that they are learned in one update."""
    tickets = []
    try:
        for j, answer in judgements:
            result = await engine.learn_from_feedback(
                j.prompt, answer, j.signal, name, user=j.user, key=j.key, wait=False
            )
            tickets.append(result.unwrap())
        outcomes = await asyncio.gather(*map(engine.feedback_outcome, tickets))
    except asyncio.CancelledError:
        if tickets:
            journalled = describe.count(len(tickets), "judgement")
            command = f"{program_name()} feedback {shlex.quote(name)} --pending"
            out.note(f"{journalled} of {len(judgements)} stored. Learn what is pending with: {command}")
        raise
    return [outcome.unwrap() for outcome in outcomes]


async def learn_pending(engine: AdapterLearningEngine, name: str, out: Output) -> None:
    """Learns the feedback that is in the journal but not learned, and reports the new heads."""
    with out.waiting("Learning"):
        moved = (await engine.learn_pending(name)).unwrap()
    lines = [f"{a.id}@{a.head} has learned everything up to event {a.applied}." for a in moved]
    out.result(
        [{"adapter": a.id.name, "head": a.head, "applied": a.applied} for a in moved],
        *(lines or ["There was nothing to learn."]),
    )


def format_ticket(ticket: Ticket) -> str:
    """Formats a ticket: the version, and what became of the feedback."""
    words = ticket.lesson.words if ticket.lesson else "pending"
    return f"{ticket.version.ref if ticket.version else ticket.adapter}: {words}"
