"""`ouroboros merge NAME ADAPTER ADAPTER ...`."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path

from ouroboros.cli.output import Output
from ouroboros.cli.parser import given_options
from ouroboros.cli.store import open_engine, require_store
from ouroboros.data.examples import read_examples
from ouroboros.domain.errors import InvalidConfig
from ouroboros.domain.merging import MergeRecipe, MergeReport, MergeSpace, MergeStrategy
from ouroboros.learning.gate.report import summarize_verdict
from ouroboros.settings import Settings

NAME = "merge"
HELP = "merge adapters into a new one; the parents stay unchanged"
EXAMPLES = """\
  ouroboros merge support tickets moods
  ouroboros merge support tickets@3 moods --strategy ties --density 0.3
  ouroboros merge plain tickets slang --strategy task_arithmetic --weights=1,-0.5
  ouroboros merge support tickets moods --probes both.jsonl    compare all on these"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the merged adapter's name")
    parser.add_argument(
        "parents", metavar="ADAPTER", nargs="+", help="the parents: adapters, or versions like tickets@2"
    )
    parser.add_argument(
        "--strategy",
        choices=[s.value for s in MergeStrategy],
        default=MergeStrategy.TASK_ARITHMETIC.value,
        help="how the updates are combined; average and weighted leave little of different tasks",
    )
    parser.add_argument(
        "--weights", type=parse_weights, metavar="X,X", help="one weight per parent, in order"
    )
    parser.add_argument(
        "--density", type=float, metavar="X", help="share of the entries that ties and dare keep"
    )
    parser.add_argument("--scale", type=float, metavar="X", help="multiplies the merged update")
    parser.add_argument(
        "--space", choices=[s.value for s in MergeSpace], help="the space in which ties and dare work"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed for the entries that dare drops")
    parser.add_argument(
        "--rank",
        type=int,
        metavar="N",
        help="reduce to this rank (default: the largest that is needed and fits)",
    )
    parser.add_argument(
        "--probes", type=Path, metavar="FILE", help="examples on which to compare merge and parents"
    )
    parser.add_argument(
        "--anyway", action="store_true", help="keep the merge even if the gate refuses it"
    )


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    changes = given_options(options, "weights", "density", "scale", "seed")
    if options.space:
        changes["space"] = MergeSpace(options.space)
    recipe = MergeRecipe(MergeStrategy(options.strategy), **changes)  # type: ignore[arg-type]
    probes = read_examples(options.probes) if options.probes else ()
    require_store(settings)
    if recipe.strategy.divides_updates:
        out.note(
            f"Note: {recipe.strategy.value} leaves each of {len(options.parents)} parents only its "
            "share of its update, and adapters for different tasks then often answer none of them. "
            "--strategy task_arithmetic keeps more."
        )
    async with open_engine(settings) as engine:
        with out.waiting(f"Merging {len(options.parents)} adapters"):
            report = (
                await engine.merge_adapters(
                    options.parents,
                    recipe,
                    name=options.name,
                    rank=options.rank,
                    probes=probes,
                    anyway=options.anyway,
                )
            ).unwrap()
    out.result(asdict(report) | {"id": report.id.name}, *format_report(report, out))
    if report.advice:
        out.note(f"Note: {report.advice}")
    out.next_step("generate", report.id.name, "your prompt")


def format_report(report: MergeReport, out: Output) -> list[str]:
    """Formats a merge: its rank and loss, the probes of each adapter, the verdict."""
    loss = "without loss"
    if report.relative_error >= 1e-5:
        loss = f"with {report.relative_error:.1%} cut off (rank {report.lossless_rank} is exact)"
    lines = [f"Merged into {report.id} at rank {report.rank}, {loss}."]
    if report.accuracy:
        rows = [(name, f"{share:.0%}") for name, share in report.accuracy.items()]
        lines += ["", out.table(("adapter", "probes right"), rows)]
    if report.verdict:
        lines += ["", f"The gate: {summarize_verdict(report.verdict)}."]
    return lines


def parse_weights(text: str) -> tuple[float, ...]:
    """Parses numbers separated by commas; raises `InvalidConfig` for anything else."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InvalidConfig(
            f"--weights is {text!r}, not numbers separated by commas.",
            hint="For example: --weights=1,-0.5",
        ) from None
