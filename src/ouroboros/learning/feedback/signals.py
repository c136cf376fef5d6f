"""The table that turns each feedback signal into the row to train.

========================  =====================================================================
correction                supervised on the correction, and DPO against the replaced answer
correction = the answer   recorded as a success
success, score s          raise the answer's log-probability by ln 2 * s
failure, score -s         lower it by ln 2 * s; nothing is ever trained towards the answer
preference, score s       raise it above 0.5, lower it below, by ln 2 * |2s - 1|
preference pair           DPO of the chosen over the rejected answer, and supervised on the chosen
critique                  recorded, never trained
========================  =====================================================================

"Raise" and "lower" train with an unpaired loss: KTO if the batch is large enough to estimate its KL
term, else APO-zero (`choose_unpaired_loss`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256

from ouroboros.domain.data import Message, Prompt, Row
from ouroboros.domain.events import FeedbackGiven
from ouroboros.domain.feedback import FeedbackKind, FeedbackSignal
from ouroboros.domain.generation import Generation
from ouroboros.domain.losses import DPO, KTO, APOZero
from ouroboros.domain.names import VersionRef

MIN_KTO_ROWS = 8
"""From this many unpaired rows on, both kinds together, KTO's KL estimate is worth its noise."""

MIN_WEIGHT = 1e-3
"""A smaller score is nothing to learn: it asks for a change of less than 0.0007 nats."""

UnpairedLoss = KTO | APOZero


@dataclass(frozen=True, slots=True)
class FeedbackRow:
    """What a feedback event becomes: the row to train, or None, and a description for users."""

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
    """Make the event to journal. Without `key`, equal feedback on one version's answer shares a key."""
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
    """The default key of an event: equal feedback on one version's answer has the same key.

    Stores hold these keys, so this encoding never changes, even if classes and fields are renamed in the
    code. The key is the digest of this text, in which each value is a Python literal:

        ('hi', 'hello', FeedbackSignal(kind=<FeedbackKind.SUCCESS: 'success'>, score=1.0, text=None,
        rejected=None), 'ann', 'tickets@1')

    on one line. A conversation is `(Message(role='user', content='hi'),)` instead of `'hi'`.
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
    """Encode a conversation as the tuple or list that it is; a tuple of one keeps its comma."""
    if isinstance(prompt, tuple):
        turns = [_encode_message(message) for message in prompt]
        return f"({turns[0]},)" if len(turns) == 1 else f"({', '.join(turns)})"
    if isinstance(prompt, list):
        return f"[{', '.join(_encode_message(message) for message in prompt)}]"
    return repr(prompt)


def _encode_message(message: Message) -> str:
    """Encode anything, even what is no message: `check_prompt` is what refuses it."""
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


def row_of(event: FeedbackGiven) -> Row | None:
    """The row that an event asks to train; None if it asks for none.

    An unpaired row has APO-zero as its loss: KTO needs a whole batch (see `choose_unpaired_loss`).
    """
    return _TABLE[event.signal.kind](event).row


def convert_feedback(event: FeedbackGiven, unpaired: UnpairedLoss) -> FeedbackRow:
    """Look an event up in the table; `unpaired` is the loss that the batch's unpaired rows share."""
    feedback = _TABLE[event.signal.kind](event)
    if feedback.row is None or not _is_unpaired(feedback.row):
        return feedback
    name = "KTO" if isinstance(unpaired, KTO) else "APO-zero"
    return FeedbackRow(f"{feedback.words}, with {name}", replace(feedback.row, loss=unpaired))


def choose_unpaired_loss(events: Sequence[FeedbackGiven]) -> UnpairedLoss:
    """Choose the loss of a batch's unpaired rows by how many there are of each kind.

    KTO's weights keep the ratio of desirable to undesirable mass in [1, 4/3], as its paper advises.
    """
    rows = [row for event in events if (row := row_of(event)) is not None and _is_unpaired(row)]
    wanted = sum(row.output is not None for row in rows)
    unwanted = len(rows) - wanted
    if len(rows) < MIN_KTO_ROWS or not wanted or not unwanted:
        return APOZero()
    if wanted < unwanted:
        return KTO(desirable=round(unwanted / wanted, 3))
    return KTO(undesirable=round(max(1.0, wanted / unwanted * 3 / 4), 3))


def _is_unpaired(row: Row) -> bool:
    return len(row.outputs) == 1


def _convert_correction(event: FeedbackGiven) -> FeedbackRow:
    text = event.signal.text or ""
    if text.strip() == event.generation.strip():
        return _raise_answer(event, 1.0, "correction equal to the answer, recorded as success")
    row = Row(event.prompt, text, DPO(), rejected=event.generation)
    return FeedbackRow("correction -> SFT + DPO against the replaced answer", row)


def _convert_success(event: FeedbackGiven) -> FeedbackRow:
    return _raise_answer(event, event.signal.score or 0.0, "success")


def _convert_failure(event: FeedbackGiven) -> FeedbackRow:
    return _lower_answer(event, -(event.signal.score or 0.0), "failure")


def _convert_preference(event: FeedbackGiven) -> FeedbackRow:
    signal = f"preference {event.signal.score:g}"
    lean = 2 * (event.signal.score or 0.0) - 1
    return _raise_answer(event, lean, signal) if lean >= 0 else _lower_answer(event, -lean, signal)


def _convert_pair(event: FeedbackGiven) -> FeedbackRow:
    row = Row(event.prompt, event.signal.text, DPO(), rejected=event.signal.rejected)
    return FeedbackRow("preference pair -> DPO + SFT on the chosen answer", row)


def _convert_critique(event: FeedbackGiven) -> FeedbackRow:
    return FeedbackRow("critique -> kept for the record, nothing trained")


def _raise_answer(event: FeedbackGiven, weight: float, signal: str) -> FeedbackRow:
    if weight < MIN_WEIGHT:
        return FeedbackRow(f"{signal} -> {_describe_neutral(weight)}, nothing trained")
    row = Row(event.prompt, event.generation, APOZero(), weight)
    return FeedbackRow(f"{signal} -> towards the answer, weight {weight:g}", row)


def _lower_answer(event: FeedbackGiven, weight: float, signal: str) -> FeedbackRow:
    if weight < MIN_WEIGHT:
        return FeedbackRow(f"{signal} -> {_describe_neutral(weight)}, nothing trained")
    row = Row(event.prompt, None, APOZero(), weight, rejected=event.generation)
    return FeedbackRow(f"{signal} -> away from the answer, weight {weight:g}", row)


def _describe_neutral(weight: float) -> str:
    return "the score is too small" if weight > 0 else "the score is neutral"


_TABLE: dict[FeedbackKind, Callable[[FeedbackGiven], FeedbackRow]] = {
    FeedbackKind.CORRECTION: _convert_correction,
    FeedbackKind.SUCCESS: _convert_success,
    FeedbackKind.FAILURE: _convert_failure,
    FeedbackKind.PREFERENCE: _convert_preference,
    FeedbackKind.PREFERENCE_PAIR: _convert_pair,
    FeedbackKind.CRITIQUE: _convert_critique,
}
