"""`ouroboros plan [MODEL]`."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import Any

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.checks import check_int
from ouroboros.domain.config import MAX_RANK
from ouroboros.domain.weights import MAX_BYTES
from ouroboros.lora.planning import SizeOption, list_size_options
from ouroboros.settings import Settings

NAME = "plan"
HELP = "show how large a model's adapters would be, from its config.json alone"
EXAMPLES = """\
  ouroboros plan
  ouroboros plan ./my-model --rank 16
  ouroboros plan meta-llama/Llama-3.1-8B    downloads its config.json, not its weights"""

_HEADER = ("layers", "precision", "size", "fits", "largest rank")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "planned", metavar="MODEL", nargs="?", help="a model folder or hub id (default: --model)"
    )
    parser.add_argument("--rank", type=int, default=8, metavar="N", help="the rank to plan for (8)")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    check_int("rank", options.rank, 1, MAX_RANK)
    model = options.planned or settings.model
    with out.waiting(f"Reading the configuration of {model}"):
        from ouroboros.backend.local.model.config_only import describe_base

        base = describe_base(model)
    sizes = list_size_options(base, options.rank)
    out.result(
        {
            "model": model,
            "rank": options.rank,
            "limit": MAX_BYTES,
            "plans": [option_json(p) for p in sizes],
        },
        format_title(model, base, options.rank),
        "",
        out.table(_HEADER, [format_option(p) for p in sizes]),
    )


def format_title(model: str, base: BaseModel, rank: int) -> str:
    """Formats the model, the rank and the size limit."""
    return (
        f"{model}: {base.architecture}, {base.parameters / 1e6:,.1f} million parameters."
        f" Adapters of rank {rank}; the limit is {describe.size(MAX_BYTES)}."
    )


def format_option(plan: SizeOption) -> tuple[str, ...]:
    """Formats a size option as a row of the table."""
    return (
        f"{plan.layers} ({plan.targets})",
        plan.precision.value,
        describe.size(plan.size),
        "yes" if plan.fits else "no",
        str(plan.largest_rank or "none"),
    )


def option_json(plan: SizeOption) -> dict[str, Any]:
    """Returns a size option as JSON."""
    return asdict(plan) | {"fits": plan.fits}
