"""Start-up time of `import ouroboros` and `ouroboros --help`, compared with bare Python and peers."""

import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from functools import partial

from benchmarks.harness import Claim, Spread, Times, interleave, times_of

_EMPTY = ["-c", "pass"]
_IMPORT = ["-c", "import ouroboros"]
_HELP = ["-m", "ouroboros", "--help"]
_PEERS = {
    "import peft, whole process": ["-c", "import peft"],
    "from transformers import Trainer, whole process": ["-c", "from transformers import Trainer"],
    "from trl import SFTTrainer, whole process": ["-c", "from trl import SFTTrainer"],
}


def run(options: Namespace) -> list[Claim]:
    ours = _arms({"empty": _EMPTY, "import": _IMPORT, "help": _HELP})
    interleave(ours, repeats=1)  # byte-code and disk cache
    times = interleave(ours, 1 if options.quick else 9)
    times |= interleave(_arms(_PEERS), 1 if options.quick else 3)
    wall = {name: [t.wall for t in times] for name, times in times.items()}
    processor = {name: [t.processor for t in times] for name, times in times.items()}
    added = [whole - empty for whole, empty in zip(wall["import"], wall["empty"], strict=True)]
    return [
        Claim("import ouroboros, over an empty Python", _ms(added), at_most=150, unit=" ms"),
        Claim("ouroboros --help, whole process", _ms(wall["help"]), at_most=400, unit=" ms"),
        Claim("of these two, how many import torch", Spread.of([_torch(_IMPORT, _HELP)]), at_most=0),
        Claim("ouroboros --help, processor time", _ms(processor["help"]), unit=" ms"),
        Claim("import ouroboros, whole process, processor time", _ms(processor["import"]), unit=" ms"),
        Claim("python -c pass, whole process", _ms(wall["empty"]), unit=" ms"),
        *(Claim(name, _ms(wall[name]), unit=" ms") for name in _PEERS),
    ]


def _arms(programs: dict[str, list[str]]) -> dict[str, Callable[[], Times]]:
    return {name: partial(times_of, [sys.executable, *words]) for name, words in programs.items()}


def _ms(seconds: Iterable[float]) -> Spread:
    return Spread.of(1000 * s for s in seconds)


def _torch(*programs: list[str]) -> int:
    """How many of the programs import torch, by the interpreter's own log of imports."""
    logs = (
        subprocess.run(
            [sys.executable, "-X", "importtime", *p], capture_output=True, text=True, check=True
        )
        for p in programs
    )
    return sum(any(line.endswith("| torch") for line in log.stderr.splitlines()) for log in logs)
