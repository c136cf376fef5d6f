"""`ouroboros import NAME FOLDER`."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import open_engine
from ouroboros.domain.errors import InvalidFile, TooLarge
from ouroboros.domain.limits import MAX_IMPORT
from ouroboros.domain.weights import CONFIG_FILE, MAX_BYTES, WEIGHTS_FILE, AdapterFiles
from ouroboros.settings import Settings

NAME = "import"
HELP = "import an adapter that PEFT or another program saved"
EXAMPLES = """\
  ouroboros import tickets ./peft-folder
  ouroboros import tickets ./peft-folder --model Qwen/Qwen3-0.6B
  ouroboros import tickets ./large-folder --shrink"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the new adapter's name")
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help=f"a folder with {CONFIG_FILE} and {WEIGHTS_FILE}"
    )
    parser.add_argument(
        "--shrink", action="store_true", help="cut an adapter over 10 MiB to the largest rank that fits"
    )


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    refuse_other_programs(options.folder)
    files = AdapterFiles(read_file(options.folder, CONFIG_FILE), read_file(options.folder, WEIGHTS_FILE))
    original, notes = files, []
    async with open_engine(settings) as engine:
        # Nothing is cut that fits, and what is cut is said with its error.
        if options.shrink and len(files.weights) > MAX_BYTES:
            with out.waiting("Cutting it to the rank that fits"):
                shrunk = (await engine.shrink_adapter_files(files)).unwrap()
            change = f"cut from rank {shrunk.original_rank} to {shrunk.rank}"
            if shrunk.rank == shrunk.original_rank:
                change = "rounded to bfloat16, in which it fits"
            notes.append(f"Note: {change}, which changes its updates by {shrunk.relative_error:.1%}.")
            original, files = files, shrunk.files
        with out.waiting(f"Checking it against {settings.model}"):
            adapter = (await engine.import_adapter(options.name, files)).unwrap()
    made_for = find_other_base(original, adapter.base_name)
    if made_for:
        notes.append(
            f"Note: its config says that it was made for {made_for}. Its layers fit {adapter.base_name};"
            " if that is another model, or another version of it, its answers will be worse."
        )
    out.result(
        describe.adapter_json(adapter),
        f"Imported {adapter.id} on {adapter.base_name}: {describe.shape(adapter)}.",
    )
    for note in notes:
        out.note(note)
    out.next_step("generate", adapter.id.name, "your prompt")


def refuse_other_programs(folder: Path) -> None:
    """Raises an error that names the program whose adapter this is, if it is not PEFT's."""
    if folder.is_file():
        is_gguf = folder.suffix == ".gguf"
        raise InvalidFile(
            f"{folder} is {'a GGUF file, of llama.cpp or Ollama' if is_gguf else 'a file'}.",
            hint="Import the PEFT folder from which it was converted."
            if is_gguf
            else "Give the folder that PEFT saved.",
        )
    if (folder / WEIGHTS_FILE).exists():
        return
    if (folder / "adapters.safetensors").exists():
        raise InvalidFile(
            f"{folder} was saved by MLX, whose matrices are transposed and have other names.",
            hint="Convert it to PEFT's format, or merge it with mlx_lm.fuse and give that as --model.",
        )
    ggufs = sorted(path.name for path in folder.glob("*.gguf"))
    if ggufs:
        raise InvalidFile(
            f"{folder} has its adapter as a GGUF file, {ggufs[0]}, of llama.cpp or Ollama.",
            hint="Import the PEFT folder from which it was converted.",
        )


def read_file(folder: Path, name: str) -> bytes:
    """Reads one file of the folder, and never more than the largest adapter that can be shrunk."""
    path = folder / name
    if name == WEIGHTS_FILE and not path.exists() and (folder / "adapter_model.bin").exists():
        raise InvalidFile(
            f"{folder} has its weights only as a pickle, and loading a pickle can run arbitrary code.",
            hint="If you trust it, save it again with safe_serialization=True.",
        )
    try:
        if path.stat().st_size > MAX_IMPORT:
            raise TooLarge(
                f"{path} has {path.stat().st_size:,} bytes; at most {MAX_IMPORT:,} can be shrunk.",
                hint="Train it with a lower rank.",
            )
        with path.open("rb") as file:
            return file.read(MAX_IMPORT + 1)
    except OSError as error:
        raise InvalidFile(
            f"{path} cannot be read: {error.strerror}.", hint="Give the folder that PEFT saved."
        ) from None


def find_other_base(files: AdapterFiles, base_name: str) -> str:
    """Returns the base that the files were made for by their config, unless it is called the same.

    Files of ouroboros record the base's fingerprint, which was compared already.
    """
    from ouroboros.lora.peft_config import read_peft_config
    from ouroboros.lora.tensorfile import read_tensor_file

    made_for = read_peft_config(files.config).base_name
    if not made_for or "base.weights" in read_tensor_file(files.weights).metadata:
        return ""
    return "" if Path(made_for).name.lower() == Path(base_name).name.lower() else made_for
