"""`ouroboros model list|get|show|check`."""

import asyncio
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import open_engine, store_exists
from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.errors import InvalidInput, ModelError, NotFound
from ouroboros.domain.weights import MAX_BYTES
from ouroboros.lora.planning import SizeOption, list_size_options
from ouroboros.models import BY_NAME, is_gguf, resolve_model
from ouroboros.models.catalog import (
    FileCheck,
    ModelEntry,
    check_files,
    describe_origin,
    folder_size,
    has_chat_template,
    list_models,
)
from ouroboros.models.digests import weights_digest
from ouroboros.settings import Settings

NAME = "model"
HELP = "list, fetch, show or check the models that adapters are made for"
EXAMPLES = """\
  ouroboros model list
  ouroboros model get smollm2           fetch and convert it, once
  ouroboros model get ./model.gguf      convert a GGUF file, of Ollama or LM Studio for example
  ouroboros model show smollm2
  ouroboros model check smollm2         every file against its recorded digest, and that it loads"""

_ACTIONS = ("list", "get", "show", "check")
_RANK = 8


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", choices=_ACTIONS, help="what to do")
    parser.add_argument(
        "base", metavar="MODEL", nargs="?", help="a name, a GGUF file, a folder or a hub id"
    )


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    if options.action == "list":
        if options.base is not None:
            raise InvalidInput("list takes no MODEL.", hint="See: ouroboros model --help")
        return _list(out)
    if options.action == "get" and options.base is None:
        raise InvalidInput("get needs the MODEL to get.", hint=f"Like: ouroboros model get {BY_NAME[1]}")
    name = options.base or settings.model
    if options.action == "get":
        return _get(name, out)
    if options.action == "show":
        return await _show(name, settings, out)
    return _check(name, out)


# --- list and get --------------------------------------------------------------------------------


def _list(out: Output) -> None:
    entries = list_models()
    rows = [(e.name, e.state, describe.size(e.size) if e.size else "", e.source) for e in entries]
    out.result([_entry_json(e) for e in entries], out.table(("model", "state", "size", "source"), rows))


def _entry_json(entry: ModelEntry) -> dict[str, Any]:
    return asdict(entry) | {"folder": str(entry.folder) if entry.folder else None}


def _get(name: str, out: Output) -> None:
    if name not in BY_NAME and not is_gguf(name):
        raise NotFound(
            f"There is no model called {name!r} to get, and no such GGUF file.",
            hint=f"Known are {' and '.join(BY_NAME)}; give folders and hub ids as --model at once.",
        )
    with out.waiting(f"Getting the model {name}"):
        folder = Path(resolve_model(name))
    size = folder_size(folder)
    out.result(
        {"model": name, "folder": str(folder), "size": size},
        f"{name} is ready: {describe.size(size)} in {folder}.",
    )
    if not has_chat_template(folder):
        out.note("It has no chat template: prompts are given to it as plain text.")


# --- show ----------------------------------------------------------------------------------------


async def _show(name: str, settings: Settings, out: Output) -> None:
    # 1. The model by its configuration, and what is on the disk.
    with out.waiting(f"Reading the model {name}"):
        from ouroboros.backend.local.model.config_only import describe_base
        from ouroboros.backend.local.runtime.memory import free_memory

        base, free = describe_base(name), free_memory()
    path = Path(resolve_model(name))
    folder = path if path.is_dir() else None
    # 2. Its adapters in the store, known by the content of the weights that they were made for.
    adapters = await _adapters_for(folder, settings) if folder else []
    plans = list_size_options(base, _RANK)
    value = {
        "model": name,
        "folder": str(folder) if folder else None,
        "size": folder_size(folder) if folder else None,
        "source": describe_origin(folder) if folder else "",
        "architecture": base.architecture,
        "parameters": base.parameters,
        "layers": base.layers,
        "width": base.width,
        "context": base.context,
        "template": has_chat_template(folder) if folder else None,
        "memory": {"bfloat16": 2 * base.parameters, "float32": 4 * base.parameters, "free": free},
        "plans": [asdict(plan) | {"fits": plan.fits} for plan in plans],
        "adapters": adapters,
    }
    out.result(value, *_lines(value, base), "", out.table(_PLAN, [_plan_row(plan) for plan in plans]))


_PLAN = ("layers", "precision", f"size at rank {_RANK}", "fits", "largest rank")


def _plan_row(plan: SizeOption) -> tuple[str, ...]:
    return (
        f"{plan.layers} ({plan.targets})",
        plan.precision.value,
        describe.size(plan.size),
        "yes" if plan.fits else "no",
        str(plan.largest_rank or "none"),
    )


def _lines(value: dict[str, Any], base: BaseModel) -> list[str]:
    templates = {True: "yes", False: "no: prompts are plain text", None: "in its tokenizer's files"}
    needed = value["memory"]
    free = f"; {describe.size(needed['free'])} are free" if needed["free"] is not None else ""
    source = f" ({value['source']})" if value["source"] else ""
    lines = [
        f"{value['model']}: {base.architecture}, {base.parameters / 1e6:,.1f} million weights,"
        f" {base.layers} layers of width {base.width:,}{source}.",
        f"context    {base.context:,} tokens",
        f"template   {templates[value['template']]}",
        f"in memory  {describe.size(needed['bfloat16'])} in bfloat16,"
        f" {describe.size(needed['float32'])} in float32{free}",
    ]
    if value["folder"]:
        lines.insert(1, f"on disk    {describe.size(value['size'])} in {value['folder']}")
        lines.append(f"adapters   {', '.join(value['adapters']) or 'none in this store'}")
    return [*lines, f"An adapter is at most {describe.size(MAX_BYTES)}:"]


async def _adapters_for(folder: Path, settings: Settings) -> list[str]:
    if not store_exists(settings):
        return []
    digest = await asyncio.to_thread(weights_digest, sorted(folder.glob("*.safetensors")))
    async with open_engine(settings) as engine:
        adapters = (await engine.list_adapters()).unwrap()
    return [str(adapter.id) for adapter in adapters if adapter.base.weights == digest]


# --- check ---------------------------------------------------------------------------------------


def _check(name: str, out: Output) -> None:
    with out.waiting(f"Checking the model {name}"):
        folder = Path(resolve_model(name))
        # 1. Every file against what was recorded when it came.
        checks = check_files(folder) if folder.is_dir() else []
        changed = [check.name for check in checks if check.intact is False]
        # 2. Only loading tells for every architecture whether all tensors are there.
        base = None if changed else _load(name)
    state = {True: "as recorded", False: "changed or missing", None: "nothing recorded"}
    rows = [(c.name, describe.size(c.size), state[c.intact]) for c in checks]
    value = {"model": name, "files": [_check_json(c) for c in checks], "loads": base is not None}
    lines = [out.table(("file", "size", "content"), rows)] if rows else []
    if base is not None:
        lines += ["", f"{name} loads: every tensor is there, and the tokenizer fits the embedding."]
    out.result(value, *lines)
    if changed:
        raise ModelError(
            f"The model {name!r} is damaged: {', '.join(changed)}.",
            hint=f"Remove {folder}; the next use makes it again.",
        )


def _check_json(check: FileCheck) -> dict[str, Any]:
    return asdict(check)


def _load(name: str) -> BaseModel:
    from ouroboros.backend.local.model.load import load_base

    return load_base(name, device="cpu").base
