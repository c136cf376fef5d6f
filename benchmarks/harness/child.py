"""The far side of `fresh`: `python -m benchmarks.harness.child MODULE:FUNCTION ARGUMENTS ANSWER`."""

import json
import sys
from importlib import import_module
from pathlib import Path


def answer(target: str, arguments: str, file: str) -> None:
    """Call the function with JSON arguments, and write its result to `file` as JSON."""
    module, _, name = target.partition(":")
    function = getattr(import_module(module), name)
    Path(file).write_text(json.dumps(function(**json.loads(arguments))))


if __name__ == "__main__":
    answer(*sys.argv[1:])
