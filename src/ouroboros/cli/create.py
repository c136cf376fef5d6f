"""`ouroboros create NAME`."""

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from typing import Any

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.parser import given_options
from ouroboros.cli.store import open_engine
from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import ANSWER, AdapterConfig
from ouroboros.lora.planning import shrink_to_limit
from ouroboros.settings import Settings

NAME = "create"
HELP = "create an adapter; until it is trained it answers exactly as the model does"
EXAMPLES = """\
  ouroboros create tickets
  ouroboros create tickets --rank 16 --targets q_proj,v_proj
  ouroboros create tickets --model Qwen/Qwen3-0.6B --preset low-rank
  ouroboros create tickets --model ./llama-2-7b --rank 64 --fit"""

PRESETS = {
    "default": AdapterConfig.default,
    "low-rank": AdapterConfig.low_rank,
    "high-rank": AdapterConfig.high_rank,
}
_FIELDS = {"rank": "rank", "rate": "learning_rate", "targets": "target_modules", "alpha": "alpha"}
_FIELDS |= {"rslora": "use_rslora", "max_steps": "max_steps", "precision": "precision"}
_FIELDS |= {"acts_on": "acts_on"}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the task's name")
    parser.add_argument(
        "--preset",
        choices=("auto", *PRESETS),
        default="auto",
        help="the values that the options below override",
    )
    parser.add_argument(
        "--description",
        default="",
        metavar="TEXT",
        help="what the task is, so that `find` and `auto` match it",
    )
    parser.add_argument("--rank", type=int, metavar="N", help="rank of the update")
    parser.add_argument("--rate", type=float, metavar="RATE", help="learning rate")
    parser.add_argument("--targets", metavar="NAMES", help='layers: "q_proj,v_proj", auto or all-linear')
    parser.add_argument("--alpha", type=float, metavar="X", help="the update is scaled by alpha / rank")
    parser.add_argument(
        "--rslora", action="store_true", default=None, help="scale by alpha / sqrt(rank) instead"
    )
    parser.add_argument(
        "--answer-only",
        dest="acts_on",
        action="store_const",
        const=ANSWER,
        help="adapt answers only: prompts are read by the model alone, once for all such adapters",
    )
    parser.add_argument("--precision", metavar="TYPE", help="store as float32, bfloat16, int8 or int4")
    parser.add_argument(
        "--fit", action="store_true", help="make the smallest change that fits into 10 MiB"
    )
    parser.add_argument("--max-steps", type=int, metavar="N", help="the most steps of one training")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    changes = {_FIELDS[k]: v for k, v in given_options(options, *_FIELDS).items()}
    async with open_engine(settings) as engine:
        with out.waiting(f"Loading {settings.model}"):
            base = (await engine.base()).unwrap()
        config = adapter_config(options.preset, base, changes)
        config = shrink_to_limit(base, config) if options.fit else config
        adapter = (
            await engine.create_adapter(options.name, config, description=options.description)
        ).unwrap()
    out.result(
        describe.adapter_json(adapter),
        f"Created {adapter.id} on {adapter.base_name}: {describe.shape(adapter)}.",
    )
    if adapter.config.precision != config.precision:
        out.note(
            f"Note: in bfloat16 it would exceed 10 MiB, so it is stored in {adapter.config.precision}. "
            "`ouroboros export` writes it as bfloat16 for other programs."
        )
    out.next_step("train", adapter.id.name, "FILE.jsonl")


def adapter_config(preset: str, base: BaseModel, changes: dict[str, Any]) -> AdapterConfig:
    """Returns the preset, or what suits the model, with single fields changed."""
    if preset == "auto":
        return AdapterConfig.auto(base, **changes)
    return replace(PRESETS[preset](), **changes)
