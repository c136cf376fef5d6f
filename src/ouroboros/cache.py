"""Where Ouroboros caches on this machine what it can compute or download again.

It lies below the backends and the stores because both cache, and outside `domain` because it reads the
environment.
"""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/ouroboros`, or `~/.cache/ouroboros`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ouroboros"
