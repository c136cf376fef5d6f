"""Describes adapters, versions and answers: as text for people and as JSON for programs."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from ouroboros.domain.config import ANSWER, AUTO
from ouroboros.domain.generation import Generation
from ouroboros.domain.performance import GateCounts, UsageCounts
from ouroboros.domain.records import Adapter, HeadMoved, Version
from ouroboros.domain.results import Evaluation
from ouroboros.domain.routing import RouteMatch
from ouroboros.learning.gate.report import summarize_verdict


def adapter_json(adapter: Adapter) -> dict[str, Any]:
    """Returns an adapter as JSON."""
    return {
        "name": adapter.id.name,
        "head": adapter.head,
        "base": adapter.base_name,
        "config": asdict(adapter.config),
        "created_at": adapter.created_at.isoformat(),
    }


def version_json(version: Version) -> dict[str, Any]:
    """Returns a version with its training, lessons and verdict as JSON."""
    return {
        "version": str(version.ref),
        "number": version.number,
        "digest": version.digest,
        "bytes": version.size,
        "parent": version.parent,
        "parents": [str(p) for p in version.parents],
        "since": version.since,
        "events": version.events,
        "cause": version.cause,
        "created_at": version.created_at.isoformat(),
        "training": asdict(version.training) if version.training else None,
        "report": asdict(version.report) if version.report else None,
        "lessons": [asdict(lesson) for lesson in version.lessons],
        "replaces": version.replaces,
        "origin": asdict(version.origin) | {"software": dict(version.origin.software)}
        if version.origin
        else None,
        "refused": version.refused,
        "verdict": verdict(version),
    }


def move_json(move: HeadMoved) -> dict[str, Any]:
    """Returns a move of the head as JSON."""
    return asdict(move) | {"at": move.at.isoformat()}


def gate_counts(counts: GateCounts) -> str:
    """Returns a sentence about what the gate did."""
    return (
        f"The gate judged {count(counts.judged, 'version')}: {counts.passed} passed as made,"
        f" {counts.walked} after walking back, {counts.again} after retraining;"
        f" {counts.refused} refused."
    )


def use_json(use: UsageCounts) -> dict[str, Any]:
    """Returns the judgements of a version's answers as JSON."""
    return {
        "good": use.good,
        "bad": use.bad,
        "share": use.success_rate,
        "interval": list(use.interval),
        "per_day": use.per_day,
    }


def generation_json(generation: Generation) -> dict[str, Any]:
    """Returns an answer as JSON, with its route if `auto` chose the adapter."""
    return {
        "version": generation.version,
        "text": generation.text,
        "finish": generation.finish,
        "prompt_tokens": generation.prompt_tokens,
        "tokens": len(generation.tokens),
    } | ({"found": route_json(generation.route)} if generation.route else {})


def route_json(match: RouteMatch) -> dict[str, Any]:
    """Returns the adapter that matches a prompt best, and whether the match is sure, as JSON."""
    return asdict(match) | {"adapter": match.adapter.name, "sure": match.sure}


def evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    """Returns the scores of an evaluation as JSON."""
    return {
        "metric": "exact",
        "rows": evaluation.rows,
        "correct": evaluation.correct,
        "accuracy": evaluation.accuracy,
        "mean_logprob": evaluation.mean_logprob,
        "answers": list(evaluation.answers),
    }


def shape(adapter: Adapter) -> str:
    """Returns, for example: rank 8 on all-linear, rate 0.005."""
    config = adapter.config
    scaling = ", rsLoRA" if config.use_rslora else ""
    precision = "" if config.precision == AUTO else f", stored in {config.precision}"
    targets = ",".join(config.target_names)
    acts = ", on answers only" if config.acts_on == ANSWER else ""
    return f"rank {config.rank} on {targets}{scaling}{acts}, rate {config.learning_rate:g}{precision}"


def origin(version: Version) -> str:
    """Returns how a version was made, in a few words."""
    report = version.report
    cause = f"{version.cause}, refused" if version.refused else version.cause
    if report is None:
        return cause
    return (
        f"{cause}: {report.rows} examples, {report.steps} steps in {report.seconds:.1f} s,"
        f" loss {report.first_loss:.3f} -> {report.final_loss:.3f}"
    )


def parents(version: Version) -> str:
    """Returns, for example: @3; for a merge: tickets@3, moods@2."""
    if version.parent is not None:
        return f"@{version.parent}"
    return ", ".join(str(p) for p in version.parents)


def events(version: Version) -> str:
    """Returns the events a version learned: event 4, or events 5-9."""
    if version.events is None:
        return ""
    first = version.lessons[0].event if version.lessons else version.events
    return event_numbers((first,)) if first == version.events else f"events {first}-{version.events}"


def judgements(use: UsageCounts) -> str:
    """Returns, for example: 9 of 10 (60%-98%)."""
    low, high = use.interval
    return f"{use.good} of {use.judged} ({low:.0%}-{high:.0%})" if use.judged else ""


def event_numbers(numbers: Sequence[int]) -> str:
    """Returns, for example: events 1, 3-5."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    parts = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    return f"{'event' if len(numbers) == 1 else 'events'} {', '.join(parts)}" if parts else ""


def count(number: int, what: str) -> str:
    """Returns, for example: 1 adapter, or 2 adapters."""
    return f"{number} {what}{'s' if number != 1 else ''}"


def one_line(text: str, limit: int = 70) -> str:
    """Returns the text on one line, cut to `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def verdict(version: Version) -> str:
    """Returns why a version was promoted or refused; empty if it was never judged."""
    return summarize_verdict(version.verdict) if version.verdict else ""


def size(count: int) -> str:
    """Returns, for example: 12 KiB, 1.5 MiB or 20.0 GiB."""
    if count >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def local_time(moment: datetime) -> str:
    """Formats a time in the reader's time zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def percent(evaluation: Evaluation) -> str:
    """Returns the right answers like "56 of 60 (93%)"."""
    return f"{evaluation.correct} of {evaluation.rows} ({100 * evaluation.accuracy:.0f}%)"
