"""The releases of what makes versions: whoever compares two of them may need to know."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from platform import python_version

_PACKAGES = ("ouroboros-learning", "torch", "transformers", "tokenizers")


@cache
def installed_software() -> tuple[tuple[str, str], ...]:
    """Names and releases of this process's Python and of the packages that touch weights."""
    return (("python", python_version()), *filter(None, map(_release, _PACKAGES)))


def _release(package: str) -> tuple[str, str] | None:
    try:
        return package, version(package)
    except PackageNotFoundError:
        return None
