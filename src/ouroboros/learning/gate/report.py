"""A verdict in words: one line for whoever trained, all of it for whoever asks why."""

from collections.abc import Callable, Iterator, Mapping

from ouroboros.domain.data import TrainingExample, to_messages
from ouroboros.domain.records import Version
from ouroboros.domain.verdict import Change, Check, CheckName, ExampleRef, Verdict

SHOWN = 5
"""Lost answers that are spelled out."""

Texts = Mapping[ExampleRef, TrainingExample]
"""What stands where in the journal, as far as it is still there."""


def summarize_verdict(verdict: Verdict) -> str:
    """Like: promoted: 10 of 10 known answers kept, 6 of 8 held-out examples right, drift 0.03."""
    said = "promoted" if verdict.promoted else "refused"
    if verdict.share < 1:
        said += f" at {verdict.share:.0%} of the way"
    parts = [_brief(check) for check in verdict.checks if check.name in _BRIEF]
    return f"{said}: {', '.join(part for part in parts if part)}"


def explain_verdict(version: Version, texts: Texts) -> tuple[str, ...]:
    """Why a version was promoted or refused, check by check."""
    verdict = version.verdict
    if verdict is None:
        return (f"{version.ref}: {version.cause}, and never judged.",)
    return tuple(_lines(version, verdict, texts))


def _lines(version: Version, verdict: Verdict, texts: Texts) -> Iterator[str]:
    made = version.cause if version.merged else f"{version.cause} from @{version.parent}"
    kept = "it was wanted anyway" if version.merged else "it is kept, and not served"
    yield f"{version.ref}, {made}: {'promoted' if verdict.promoted else f'refused: {kept}'}."
    for check in verdict.checks:
        mark = "ok" if check.passed else "FAILED"
        yield f"  {mark:<7} {check.name.value:<9} {_WORDS[check.name](check, verdict, texts)}"
        if check.name not in (CheckName.CLASS, CheckName.CREEP):
            yield from (f"{'':19} lost: {_text(place, texts)}" for place in check.lost[:SHOWN])
    if len(verdict.attempts) > 1:
        for attempt in verdict.attempts:
            failed = ", ".join(name.value for name in attempt.failed)
            yield f"  {'tried':<17} {attempt.what}: {f'failed {failed}' if failed else 'passed'}"
    yield f"Judged in {verdict.seconds:.1f} s."


def _finite(check: Check, verdict: Verdict, texts: Texts) -> str:
    return "every number is one" if check.passed else "its answers are not numbers"


def _differs(check: Check, verdict: Verdict, texts: Texts) -> str:
    return "it moves the bare model" if check.passed else "it answers exactly as the bare model does"


def _strength(check: Check, verdict: Verdict, texts: Texts) -> str:
    return f"its updates have {check.value:.2f} of the weights' norm (limit {check.limit:g})"


def _arrived(check: Check, verdict: Verdict, texts: Texts) -> str:
    words = f"what was taught is {check.value:+.2f} nats per token likelier"
    return f"{words}; {_count(check.answers, 'held-out examples')}" if check.answers else words


def _known(check: Check, verdict: Verdict, texts: Texts) -> str:
    answers, likelihood = check.answers, check.likelihood
    assert answers is not None and likelihood is not None
    known = f"probes of what {check.like.adapter} knew" if check.like else "probes"
    return (
        f"{_count(answers, known, check.beside)}, {len(check.lost)} lost:"
        f" {100 * answers.mean:+.1f} points, within"
        f" [{100 * answers.low:+.1f}, {100 * answers.high:+.1f}] at {verdict.confidence:.0%} confidence"
        f" ({100 * verdict.tolerance:g} tolerated); a right token's probability"
        f" {100 * likelihood.mean:+.1f} points"
    )


def _creep(check: Check, verdict: Verdict, texts: Texts) -> str:
    answers = check.answers
    assert answers is not None
    after, before = _right(answers.after, answers), _right(answers.before, answers)
    return f"{after} of {answers.rows} probes right ({before} when each was learned)"


def _class(check: Check, verdict: Verdict, texts: Texts) -> str:
    assert check.answers is not None and check.like is not None
    found = texts.get(check.like)
    name = f'"{_short(found.output)}"' if found else f"like {_where(check.like)}"
    return f"{name}: {_count(check.answers, 'probes')}"


def _pinned(check: Check, verdict: Verdict, texts: Texts) -> str:
    assert check.answers is not None
    return _count(check.answers, "pinned answers")


def _drift(check: Check, verdict: Verdict, texts: Texts) -> str:
    return f"{check.value:.2f} nats per token from the bare model in other talk (limit {check.limit:g})"


_WORDS: dict[CheckName, Callable[[Check, Verdict, Texts], str]] = {
    CheckName.FINITE: _finite,
    CheckName.DIFFERS: _differs,
    CheckName.STRENGTH: _strength,
    CheckName.ARRIVED: _arrived,
    CheckName.KNOWN: _known,
    CheckName.CREEP: _creep,
    CheckName.CLASS: _class,
    CheckName.PINNED: _pinned,
    CheckName.DRIFT: _drift,
}

_BRIEF = (CheckName.PINNED, CheckName.KNOWN, CheckName.ARRIVED, CheckName.DRIFT)


def _brief(check: Check) -> str:
    answers = check.answers
    if check.name is CheckName.DRIFT:
        return f"drift {check.value:.2f}"
    if answers is None:
        return ""
    if check.name is CheckName.ARRIVED:
        return f"{_right(answers.after, answers)} of {answers.rows} held-out examples right"
    what = "pinned" if check.name is CheckName.PINNED else "known"
    before = _right(answers.before, answers)
    return f"{before - len(check.lost)} of {before} {what} answers kept"


def _count(change: Change, what: str, beside: str = "") -> str:
    """`beside` names who answered "before", if that was not the one parent."""
    after, before = _right(change.after, change), _right(change.before, change)
    return f"{after} of {change.rows} {what} right ({before} {f'by {beside}' if beside else 'before'})"


def _right(share: float, change: Change) -> int:
    return round(share * change.rows)


def _text(place: ExampleRef, texts: Texts) -> str:
    example = texts.get(place)
    if example is None:
        return f"{_where(place)}{', which was erased' if place.event else ''}"
    return f'"{_short(to_messages(example.input)[-1].content)}" -> {_short(example.output)}'


def _where(place: ExampleRef) -> str:
    if not place.event:
        return f"probe {place.row + 1} of those given"
    journal = f" of {place.adapter}" if place.adapter else ""
    return f"row {place.row + 1} of event {place.event}{journal}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"
