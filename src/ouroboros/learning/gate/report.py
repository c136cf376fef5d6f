"""A verdict in words: a one-line summary, and a full explanation check by check."""

from collections.abc import Callable, Iterator, Mapping

from ouroboros.domain.data import TrainingExample, to_messages
from ouroboros.domain.records import Version
from ouroboros.domain.verdict import Change, Check, CheckName, ExampleRef, Verdict

SHOWN = 5
"""How many lost answers of a check are shown."""

Texts = Mapping[ExampleRef, TrainingExample]
"""The examples that a verdict refers to, as far as they are not erased."""


def summarize_verdict(verdict: Verdict) -> str:
    """Like "promoted: 10 of 10 known answers kept, 6 of 8 held-out examples right, drift 0.03"."""
    outcome = "promoted" if verdict.promoted else "refused"
    if verdict.share < 1:
        outcome += f" at {verdict.share:.0%} of the way"
    parts = [_summarize_check(check) for check in verdict.checks if check.name in _SUMMARIZED]
    return f"{outcome}: {', '.join(part for part in parts if part)}"


def explain_verdict(version: Version, texts: Texts) -> tuple[str, ...]:
    """Explain why a version was promoted or refused: a headline, every check, and the lost answers."""
    verdict = version.verdict
    if verdict is None:
        return (f"{version.ref}: {version.cause}, and never judged.",)
    return tuple(_iter_lines(version, verdict, texts))


def _iter_lines(version: Version, verdict: Verdict, texts: Texts) -> Iterator[str]:
    # 1. The headline. A merge that the gate refused exists only if the user asked for it anyway.
    origin = version.cause if version.merged else f"{version.cause} from @{version.parent}"
    consequence = "created anyway, as requested" if version.merged else "stored but not served"
    yield f"{version.ref}, {origin}: {'promoted' if verdict.promoted else f'refused, {consequence}'}."
    # 2. The checks. Those of a class and of creep are about probes that another check lists already.
    for check in verdict.checks:
        mark = "ok" if check.passed else "FAILED"
        yield f"  {mark:<7} {check.name.value:<9} {_DESCRIPTIONS[check.name](check, verdict, texts)}"
        if check.name not in (CheckName.CLASS, CheckName.CREEP):
            yield from (f"{'':19} lost: {_describe_example(ref, texts)}" for ref in check.lost[:SHOWN])
    # 3. The candidates before this one, if it took more than one.
    if len(verdict.attempts) > 1:
        for attempt in verdict.attempts:
            failed = ", ".join(name.value for name in attempt.failed)
            yield f"  {'tried':<17} {attempt.what}: {f'failed {failed}' if failed else 'passed'}"
    yield f"Judged in {verdict.seconds:.1f} s."


def _describe_finite(check: Check, verdict: Verdict, texts: Texts) -> str:
    return "all values are finite" if check.passed else "some values are not finite"


def _describe_differs(check: Check, verdict: Verdict, texts: Texts) -> str:
    return "it changes the base model" if check.passed else "it answers exactly as the base model does"


def _describe_strength(check: Check, verdict: Verdict, texts: Texts) -> str:
    return f"the norm of its updates is {check.value:.2f} of the weights' norm (limit {check.limit:g})"


def _describe_arrived(check: Check, verdict: Verdict, texts: Texts) -> str:
    words = f"trained outputs are {check.value:+.2f} nats per token more likely"
    return f"{words}; {_count(check.answers, 'held-out examples')}" if check.answers else words


def _describe_known(check: Check, verdict: Verdict, texts: Texts) -> str:
    answers, likelihood = check.answers, check.likelihood
    assert answers is not None and likelihood is not None
    probes = f"probes from {check.like.adapter}" if check.like else "probes"
    return (
        f"{_count(answers, probes, check.beside)}, {len(check.lost)} lost:"
        f" {100 * answers.mean:+.1f} points, interval"
        f" [{100 * answers.low:+.1f}, {100 * answers.high:+.1f}] at {verdict.confidence:.0%} confidence,"
        f" tolerance {100 * verdict.tolerance:g}; probability of a right token"
        f" {100 * likelihood.mean:+.1f} points"
    )


def _describe_creep(check: Check, verdict: Verdict, texts: Texts) -> str:
    answers = check.answers
    assert answers is not None
    after, before = _count_right(answers.after, answers), _count_right(answers.before, answers)
    return f"{after} of {answers.rows} probes right ({before} when each was first learned)"


def _describe_class(check: Check, verdict: Verdict, texts: Texts) -> str:
    assert check.answers is not None and check.like is not None
    example = texts.get(check.like)
    name = f'"{_shorten(example.output)}"' if example else f"class of {_locate(check.like)}"
    return f"{name}: {_count(check.answers, 'probes')}"


def _describe_pinned(check: Check, verdict: Verdict, texts: Texts) -> str:
    assert check.answers is not None
    return _count(check.answers, "pinned answers")


def _describe_drift(check: Check, verdict: Verdict, texts: Texts) -> str:
    return (
        f"{check.value:.2f} nats per token from the base model on unrelated prompts"
        f" (limit {check.limit:g})"
    )


_DESCRIPTIONS: dict[CheckName, Callable[[Check, Verdict, Texts], str]] = {
    CheckName.FINITE: _describe_finite,
    CheckName.DIFFERS: _describe_differs,
    CheckName.STRENGTH: _describe_strength,
    CheckName.ARRIVED: _describe_arrived,
    CheckName.KNOWN: _describe_known,
    CheckName.CREEP: _describe_creep,
    CheckName.CLASS: _describe_class,
    CheckName.PINNED: _describe_pinned,
    CheckName.DRIFT: _describe_drift,
}

_SUMMARIZED = (CheckName.PINNED, CheckName.KNOWN, CheckName.ARRIVED, CheckName.DRIFT)


def _summarize_check(check: Check) -> str:
    answers = check.answers
    if check.name is CheckName.DRIFT:
        return f"drift {check.value:.2f}"
    if answers is None:
        return ""
    if check.name is CheckName.ARRIVED:
        return f"{_count_right(answers.after, answers)} of {answers.rows} held-out examples right"
    what = "pinned" if check.name is CheckName.PINNED else "known"
    before = _count_right(answers.before, answers)
    return f"{before - len(check.lost)} of {before} {what} answers kept"


def _count(change: Change, what: str, parent: str = "") -> str:
    """Like "7 of 10 probes right (9 before)"; `parent` names which parent of a merge had the 9."""
    after, before = _count_right(change.after, change), _count_right(change.before, change)
    return f"{after} of {change.rows} {what} right ({before} {f'by {parent}' if parent else 'before'})"


def _count_right(share: float, change: Change) -> int:
    return round(share * change.rows)


def _describe_example(ref: ExampleRef, texts: Texts) -> str:
    example = texts.get(ref)
    if example is None:
        return f"{_locate(ref)}{', which was erased' if ref.event else ''}"
    return f'"{_shorten(to_messages(example.input)[-1].content)}" -> {_shorten(example.output)}'


def _locate(ref: ExampleRef) -> str:
    if not ref.event:
        return f"given probe {ref.row + 1}"
    journal = f" of {ref.adapter}" if ref.adapter else ""
    return f"row {ref.row + 1} of event {ref.event}{journal}"


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"
