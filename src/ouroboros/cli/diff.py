"""`ouroboros diff NAME@N NAME@M`."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import open_engine, require_store
from ouroboros.data.examples import read_examples
from ouroboros.domain.results import Comparison
from ouroboros.settings import Settings

NAME = "diff"
HELP = "show what changed between two versions: events, weights, answers"
EXAMPLES = """\
  ouroboros diff tickets@2 tickets@5
  ouroboros diff tickets@2 tickets --probes heldout.jsonl    compare their answers too"""

SHOWN = 10
"""Number of changed answers that are printed; --json has all of them."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("before", metavar="BEFORE", help="a version: tickets@2")
    parser.add_argument("after", metavar="AFTER", help="another: tickets@5, or tickets for the head")
    parser.add_argument("--probes", type=Path, metavar="FILE", help="examples that both versions answer")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    probes = read_examples(options.probes) if options.probes else []
    require_store(settings)
    async with open_engine(settings) as engine:
        with out.waiting(f"Comparing {options.before} and {options.after}"):
            comparison = (await engine.compare_versions(options.before, options.after, probes)).unwrap()
    out.result(comparison_json(comparison), *format_comparison(comparison, out))


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Returns the differences between two versions as JSON."""
    return {
        "before": describe.version_json(comparison.before),
        "after": describe.version_json(comparison.after),
        "distance": comparison.distance,
        "strengths": list(comparison.strengths),
        "learned": list(comparison.learned),
        "answers": [asdict(a) for a in comparison.answers],
        "scores": [describe.evaluation_json(s) for s in comparison.scores or ()],
    }


def format_comparison(comparison: Comparison, out: Output) -> list[str]:
    """Formats two versions beside each other, then the answers that changed."""
    versions = (comparison.before, comparison.after)
    rows = [
        ("made", *(describe.origin(v) for v in versions)),
        ("when", *(describe.local_time(v.created_at) for v in versions)),
        ("size", *(describe.size(v.size) for v in versions)),
        ("update, share of weight norm", *(f"{s:.3%}" for s in comparison.strengths)),
    ]
    if comparison.scores:
        rows.append(("probes right", *map(describe.percent, comparison.scores)))
        rows.append(("log-probability per token", *(f"{s.mean_logprob:.3f}" for s in comparison.scores)))
    return [
        out.table(("", *(str(v.ref) for v in versions)), rows),
        "",
        f"Their updates differ by {comparison.distance:.3%} of the layers' weight norm.",
        f"Learned in between: {describe.event_numbers(comparison.learned) or 'nothing'}.",
        *format_answers(comparison),
    ]


def format_answers(comparison: Comparison) -> list[str]:
    """Formats the answers that changed, each with what was expected."""
    changed = [a for a in comparison.answers if a.before != a.after]
    if not comparison.answers:
        return []
    lines = ["", f"{len(changed)} of {len(comparison.answers)} answers changed."]
    for a in changed[:SHOWN]:
        lines += [f'  "{describe.one_line(a.prompt)}"  (expected {describe.one_line(a.expected)})']
        lines += [f"    {describe.one_line(a.before)}  ->  {describe.one_line(a.after)}"]
    return lines
