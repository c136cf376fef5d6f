"""`ouroboros export NAME FOLDER`."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import open_engine, require_store
from ouroboros.domain.errors import AlreadyExists, InvalidFile
from ouroboros.domain.weights import ExportForm
from ouroboros.settings import Settings

NAME = "export"
HELP = "write an adapter for other programs: PEFT, vLLM, llama.cpp, Ollama"
EXAMPLES = """\
  ouroboros export tickets ./tickets            a PEFT folder
  ouroboros export tickets@2 ./tickets --gguf   one file for llama.cpp"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the adapter, or one version: tickets@2")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="created if it does not exist")
    parser.add_argument("--gguf", action="store_true", help="one GGUF file instead of a PEFT folder")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    require_store(settings)
    form = ExportForm.GGUF if options.gguf else ExportForm.PEFT
    async with open_engine(settings) as engine:
        with out.waiting(f"Exporting {options.name}"):
            files = (await engine.export_adapter(options.name, form)).unwrap()
    paths = [options.folder / name for name in files]
    for path in paths:
        if path.exists():
            raise AlreadyExists(f"{path} exists already.", hint="Give another folder.")
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        for path, data in zip(paths, files.values(), strict=True):
            path.write_bytes(data)
    except OSError as error:
        raise InvalidFile(
            f"{options.folder} cannot be written: {error.strerror}.", hint="Give another folder."
        ) from None
    out.result(
        {"files": {str(p): len(d) for p, d in zip(paths, files.values(), strict=True)}},
        *(f"Wrote {p} ({describe.size(len(d))})." for p, d in zip(paths, files.values(), strict=True)),
    )
