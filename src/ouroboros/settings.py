"""The program's settings: few, frozen, from flags, the environment and a TOML file, in that order."""

import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ouroboros.domain.checks import check_int, check_number, suggest_nearest
from ouroboros.domain.errors import InvalidConfig, InvalidFile

PREFIX = "OUROBOROS_"
CONFIG = "OUROBOROS_CONFIG"
"""Names the settings file; without it `ouroboros.toml` is read if it is there."""

DEFAULT_FILE = Path("ouroboros.toml")


@dataclass(frozen=True, slots=True)
class Settings:
    """Where things are kept and what they run on. docs/settings.md explains each.

    store    a folder, or "memory:" for one that is forgotten at exit.
    metadata  where metadata is kept instead of in the store's folder: a URL; "" leaves it there.
    blobs    the same for weights.
    blob_cache  MiB of weights in a cloud that this machine keeps copies of; 0 keeps none.
    model    "starter", "smollm2", a GGUF file, the folder of a Hugging Face causal language model, or
             its hub id.
    dtype    what the model computes in: "auto", "float32" or "bfloat16".
    device   "auto", "cpu", "cuda", or one of several: "cuda:1".
    quantize  keep the model's linear layers in fewer bits: "none", "int8" or "nf4".
    threads  processor threads; None leaves the choice to PyTorch.
    embedding  what tells adapters apart: "base", the model itself, or "minilm", a small sentence model.
    prompt_memory  MiB of what the model itself has read of prompts, kept for answer-only adapters.
    feedback_limit  judgements of one named user that an adapter learns within an hour; 0 sets no limit.
    replay_rows  rows of what an adapter learned that its next trainings may replay; 0 replays none.
    auto_rollback  go back from a head that is judged worse than its parents; how likely, from 0 to 0.5,
              that may happen to one that is not worse. 0 never goes back.
    tolerance  share of the answers an adapter knew that a new version may lose, beyond chance.
    """

    store: str = "./ouroboros-store"
    metadata: str = field(default="", repr=False)  # its URL may have a password
    blobs: str = field(default="", repr=False)
    blob_cache: int = 1024
    model: str = "starter"
    dtype: str = "auto"
    device: str = "auto"
    quantize: str = "none"
    embedding: str = "base"
    threads: int | None = None
    prompt_memory: int = 256
    feedback_limit: int = 60
    replay_rows: int = 500
    auto_rollback: float = 0.0
    tolerance: float = 0.02

    @classmethod
    def load(
        cls,
        overrides: Mapping[str, Any] | None = None,
        *,
        file: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> "Settings":
        """Each setting from `overrides`, else the environment, else the file, else its default. A path
        may be given for text.

        Raises `InvalidConfig` for a name nobody knows or a value of the wrong kind, and `InvalidFile`
        for a settings file that is missing or is not TOML.
        """
        environ = os.environ if environ is None else environ
        values = read_settings_file(file or find_settings_file(environ)) | read_environment(environ)
        values |= {
            k: os.fspath(v) if isinstance(v, os.PathLike) else v for k, v in (overrides or {}).items()
        }
        _refuse_unknown(values, "setting")
        settings = cls(**values)
        settings.check()
        return settings

    def check(self) -> None:
        """Raise `InvalidConfig` for a setting of the wrong kind or out of range."""
        for name in ("store", "model", "dtype", "device", "quantize", "embedding"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise InvalidConfig(f"The setting {name} is {value!r}.", hint="Give some text.")
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices and not (name == "device" and re.fullmatch(r"cuda:\d{1,3}", value)):
                raise InvalidConfig(
                    f"The setting {name} is {getattr(self, name)!r}.",
                    hint=f"Use one of {', '.join(choices)}.",
                )
        if self.threads is not None:
            check_int("threads", self.threads, 1, 4096)
        check_int("blob_cache", self.blob_cache, 0, 2**30)
        check_int("prompt_memory", self.prompt_memory, 0, 1 << 20)
        check_int("feedback_limit", self.feedback_limit, 0, 1_000_000)
        check_int("replay_rows", self.replay_rows, 0, 1_000_000)
        check_number("auto_rollback", self.auto_rollback, 0.0, 0.5)
        check_number("tolerance", self.tolerance, 0.0, 1.0)


_CHOICES = {
    "dtype": ("auto", "float32", "bfloat16"),
    "device": ("auto", "cpu", "cuda"),
    "quantize": ("none", "int8", "nf4"),
    "embedding": ("base", "minilm"),
}
_NUMBERS = "blob_cache threads prompt_memory feedback_limit replay_rows auto_rollback tolerance".split()
NAMES = tuple(f.name for f in fields(Settings))
DEFAULTS = Settings()


def find_settings_file(environ: Mapping[str, str]) -> Path | None:
    """Return the settings file that the environment names, or the default one if it exists."""
    if environ.get(CONFIG):
        return Path(environ[CONFIG])
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


def read_settings_file(path: Path | None) -> dict[str, Any]:
    """Read the settings in a TOML file; none without a path."""
    if path is None:
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InvalidFile(
            f"The settings file {path} cannot be read: {error.strerror}.", hint="Check its path."
        ) from error
    except ValueError as error:
        raise InvalidFile(
            f"{path} is not a TOML file: {error}.", hint='Its lines look like: store = "./my-store"'
        ) from error
    _refuse_unknown(values, f"setting in {path}")
    return values


def read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Read the settings in the environment, and refuse names that are unknown."""
    variables = {k: v for k, v in environ.items() if k.startswith(PREFIX) and k != CONFIG and v}
    known = {PREFIX + name.upper(): name for name in NAMES}
    for key in variables:
        if key not in known:
            raise InvalidConfig(
                f"There is no environment variable {key}.", hint=suggest_nearest(key, [*known, CONFIG])
            )
    values: dict[str, Any] = {known[k]: v for k, v in variables.items()}
    return values | {n: parse_number(values[n]) for n in _NUMBERS if n in values}


def parse_number(text: str) -> int | float | str:
    """The number that a text is, or else the text, for `check` to refuse."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def _refuse_unknown(values: Mapping[str, Any], what: str) -> None:
    for name in values:
        if name not in NAMES:
            raise InvalidConfig(
                f"There is no {what} called {name!r}.", hint=suggest_nearest(name, NAMES)
            )
