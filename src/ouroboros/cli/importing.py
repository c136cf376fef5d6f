"""`ouroboros import NAME FOLDER`."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ouroboros.build import open_engine
from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.domain.errors import InvalidFile
from ouroboros.domain.weights import CONFIG_FILE, MAX_BYTES, WEIGHTS_FILE, AdapterFiles
from ouroboros.settings import Settings

NAME = "import"
HELP = "import an adapter that PEFT or another program saved"
EXAMPLES = """\
  ouroboros import tickets ./peft-folder
  ouroboros import tickets ./peft-folder --model Qwen/Qwen3-0.6B"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the new adapter's name")
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help=f"a folder with {CONFIG_FILE} and {WEIGHTS_FILE}"
    )


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    files = AdapterFiles(read_file(options.folder, CONFIG_FILE), read_file(options.folder, WEIGHTS_FILE))
    async with open_engine(settings) as engine:
        with out.waiting(f"Checking it against {settings.model}"):
            adapter = (await engine.import_adapter(options.name, files)).unwrap()
    out.result(
        describe.adapter_json(adapter),
        f"Imported {adapter.id} on {adapter.base_name}: {describe.shape(adapter)}.",
    )
    out.next_step("generate", adapter.id.name, "your prompt")


def read_file(folder: Path, name: str) -> bytes:
    """Reads one file of the folder, and never more than the largest possible adapter."""
    path = folder / name
    if name == WEIGHTS_FILE and not path.exists() and (folder / "adapter_model.bin").exists():
        raise InvalidFile(
            f"{folder} has its weights only as a pickle, and loading a pickle can run arbitrary code.",
            hint="If you trust it, save it again with safe_serialization=True.",
        )
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidFile(
            f"{path} cannot be read: {error.strerror}.", hint="Give the folder that PEFT saved."
        ) from None
