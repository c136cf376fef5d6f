"""The one table from a signal to what is trained.

========================  =====================================================================
correction                supervised on the correction, and DPO against the replaced answer
correction = the answer   recorded as a success
success, score s          raise the answer, weight s
failure, score -s         lower the answer, weight s; nothing is ever trained towards it
preference, score s       raise the answer above 0.5, lower it below, weight |2s - 1|
preference pair           DPO of the chosen over the rejected answer, and supervised on the chosen
critique                  kept for the record
========================  =====================================================================

"Raise" and "lower" are unpaired losses: KTO where the batch can estimate its KL term, APO-zero where it
is too small for that (`unpaired_loss`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from ouroboros.domain.data import Message, Prompt, Row
from ouroboros.domain.events import FeedbackGiven
from ouroboros.domain.feedback import FeedbackKind, FeedbackSignal
from ouroboros.domain.generation import Generation
from ouroboros.domain.losses import DPO, KTO, APOZero
from ouroboros.domain.names import VersionRef

KTO_NEEDS = 8
"""Unpaired rows, of both kinds, from which on a batch's KL estimate is steadier than having none."""

Unpaired = KTO | APOZero


@dataclass(frozen=True, slots=True)
class FeedbackRow:
    """What a signal comes to: the row to train, if any, and the choice in words."""

    words: str
    row: Row | None = None


def feedback_event(
    prompt: Prompt,
    generation: str | Generation,
    signal: FeedbackSignal,
    answered: VersionRef,
    *,
    user: str | None = None,
    key: str | None = None,
) -> FeedbackGiven:
    """The event to journal. Without a key, equal judgements of one version's answer are one event."""
    text = generation if isinstance(generation, str) else generation.text
    logprobs = () if isinstance(generation, str) else generation.logprobs
    return FeedbackGiven(
        prompt=prompt,
        generation=text,
        signal=signal,
        key=key or event_key(prompt, text, signal, user, str(answered)),
        at=datetime.now(UTC),
        user=user,
        answered=str(answered),
        logprobs=logprobs,
    )


def event_key(
    prompt: Prompt | Sequence[Message],
    answer: str,
    signal: FeedbackSignal,
    user: str | None,
    answered: str,
) -> str:
    """The key of an event that was given none: equal judgements of one version's answer share it.

    Stores hold such keys, so the encoding below never changes, whatever classes and fields are called
    in the code. The digest is of this text, where each value is written as a Python literal:

        ('hi', 'hello', FeedbackSignal(kind=<FeedbackKind.SUCCESS: 'success'>, score=1.0, text=None,
        rejected=None), 'ann', 'tickets@1')

    in one line. A conversation is `(Message(role='user', content='hi'),)` instead of `'hi'`.
    """
    values = (
        _encode_prompt(prompt),
        repr(answer),
        _encode_signal(signal),
        repr(user),
        repr(answered),
    )
    text = f"({', '.join(values)})"
    return f"said:{sha256(text.encode(errors='replace')).hexdigest()}"


def _encode_prompt(prompt: Prompt | Sequence[Message]) -> str:
    """A conversation is written as the tuple or list that it is; a tuple of one keeps its comma."""
    if isinstance(prompt, tuple):
        turns = [_encode_message(message) for message in prompt]
        return f"({turns[0]},)" if len(turns) == 1 else f"({', '.join(turns)})"
    if isinstance(prompt, list):
        return f"[{', '.join(_encode_message(message) for message in prompt)}]"
    return repr(prompt)


def _encode_message(message: Message) -> str:
    """What is no message is encoded, too: refusing it is the work of `check_prompt`."""
    if not isinstance(message, Message):
        return repr(message)
    return f"Message(role={message.role!r}, content={message.content!r})"


def _encode_signal(signal: FeedbackSignal) -> str:
    kind = repr(signal.kind)
    if isinstance(signal.kind, FeedbackKind):
        kind = f"<FeedbackKind.{signal.kind.value.upper()}: {signal.kind.value!r}>"
    return (
        f"FeedbackSignal(kind={kind}, score={signal.score!r}, text={signal.text!r}, "
        f"rejected={signal.rejected!r})"
    )


def teach(event: FeedbackGiven, unpaired: Unpaired) -> FeedbackRow:
    """Look a signal up in the table; `unpaired` is the batch's loss for single judgements."""
    return _TABLE[event.signal.kind](event, unpaired)


def unpaired_loss(events: Sequence[FeedbackGiven]) -> Unpaired:
    """The loss for a batch's single judgements, by what the batch is made of.

    KTO's weights keep desirable : undesirable mass in [1, 4/3], as its paper advises.
    """
    rows = [row for event in events if (row := teach(event, APOZero()).row) and len(row.outputs) == 1]
    wanted = sum(row.output is not None for row in rows)
    unwanted = len(rows) - wanted
    if len(rows) < KTO_NEEDS or not wanted or not unwanted:
        return APOZero()
    if wanted < unwanted:
        return KTO(desirable=round(unwanted / wanted, 3))
    return KTO(undesirable=round(max(1.0, wanted / unwanted * 3 / 4), 3))


def _correction(event: FeedbackGiven, unpaired: Unpaired) -> FeedbackRow:
    text = event.signal.text or ""
    if text.strip() == event.generation.strip():
        taught = _raise(event, 1.0, unpaired)
        return FeedbackRow(
            f"correction equal to the answer -> recorded as success: {taught.words}", taught.row
        )
    row = Row(event.prompt, text, DPO(), rejected=event.generation)
    return FeedbackRow("correction -> SFT + DPO against the replaced answer", row)


def _success(event: FeedbackGiven, unpaired: Unpaired) -> FeedbackRow:
    taught = _raise(event, event.signal.score or 0.0, unpaired)
    return FeedbackRow(f"success -> {taught.words}", taught.row)


def _failure(event: FeedbackGiven, unpaired: Unpaired) -> FeedbackRow:
    taught = _lower(event, -(event.signal.score or 0.0), unpaired)
    return FeedbackRow(f"failure -> {taught.words}", taught.row)


def _preference(event: FeedbackGiven, unpaired: Unpaired) -> FeedbackRow:
    lean = 2 * (event.signal.score or 0.0) - 1
    taught = _raise(event, lean, unpaired) if lean >= 0 else _lower(event, -lean, unpaired)
    return FeedbackRow(f"preference {event.signal.score:g} -> {taught.words}", taught.row)


def _pair(event: FeedbackGiven, unpaired: Unpaired) -> FeedbackRow:
    row = Row(event.prompt, event.signal.text, DPO(), rejected=event.signal.rejected)
    return FeedbackRow("preference pair -> DPO + SFT on the chosen answer", row)


def _critique(event: FeedbackGiven, unpaired: Unpaired) -> FeedbackRow:
    return FeedbackRow("critique -> kept for the record, nothing trained")


def _raise(event: FeedbackGiven, weight: float, loss: Unpaired) -> FeedbackRow:
    if weight == 0:
        return FeedbackRow("a score that says nothing, nothing trained")
    row = Row(event.prompt, event.generation, loss, weight)
    return FeedbackRow(f"{_name(loss)} towards the answer, weight {weight:g}", row)


def _lower(event: FeedbackGiven, weight: float, loss: Unpaired) -> FeedbackRow:
    if weight == 0:
        return FeedbackRow("a score that says nothing, nothing trained")
    row = Row(event.prompt, None, loss, weight, rejected=event.generation)
    return FeedbackRow(f"{_name(loss)} away from the answer, weight {weight:g}", row)


def _name(loss: Unpaired) -> str:
    return "KTO" if isinstance(loss, KTO) else "APO-zero"


_TABLE: dict[FeedbackKind, Callable[[FeedbackGiven, Unpaired], FeedbackRow]] = {
    FeedbackKind.CORRECTION: _correction,
    FeedbackKind.SUCCESS: _success,
    FeedbackKind.FAILURE: _failure,
    FeedbackKind.PREFERENCE: _preference,
    FeedbackKind.PREFERENCE_PAIR: _pair,
    FeedbackKind.CRITIQUE: _critique,
}
