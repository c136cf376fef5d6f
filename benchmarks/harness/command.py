"""The command line: `[NAME [--quick] [--json FILE] [the benchmark's own arguments]]`."""

import ast
import difflib
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from benchmarks.harness.machine import machine
from benchmarks.harness.report import as_json, summary, table

HOME = Path(__file__).resolve().parents[1]


def benchmarks() -> dict[str, str]:
    """Names of the benchmarks and the first lines of their docstrings, found without importing them."""
    files = {path.stem: path for path in HOME.glob("[!_]*.py")}
    files |= {path.parent.name: path for path in HOME.glob("*/__init__.py")}
    del files["harness"]
    return {name: _first_line(path) for name, path in sorted(files.items())}


def main(arguments: Sequence[str]) -> int:
    """Returns 0 if every claim holds or with --quick, 1 if one fails, 2 for an unknown benchmark."""
    known = benchmarks()
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, known))
        print("\n".join(f"{name.ljust(width)}  {line}" for name, line in known.items()))
        return 0
    name = arguments[0]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}."
        print(f"There is no benchmark {name}. {hint}", file=sys.stderr)
        return 2
    module = import_module(f"benchmarks.{name}")
    return _measure(name, module, _options(name, module, arguments[1:]))


def _options(name: str, module: ModuleType, arguments: Sequence[str]) -> Namespace:
    parser = ArgumentParser(prog=f"python -m benchmarks {name}", description=module.__doc__)
    parser.add_argument("--quick", action="store_true", help="only show that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    add_arguments = getattr(module, "add_arguments", None)
    if add_arguments is not None:
        add_arguments(parser)
    return parser.parse_args(arguments)


def _measure(name: str, module: ModuleType, options: Namespace) -> int:
    where = machine()
    print(where, flush=True)
    claims = module.run(options)
    print(f"\n{table(claims)}\n")
    if options.json:
        record = as_json(name, options.quick, where, claims)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    if options.quick:
        print(f"{name} runs. The figures of a quick run are too noisy to use.")
        return 0
    print(summary(name, claims))
    return 0 if all(claim.holds for claim in claims) else 1


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.partition("\n")[0]
