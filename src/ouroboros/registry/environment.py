"""The installed releases of the software that makes versions, recorded with each of them."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from platform import python_version

_PACKAGES = ("ouroboros-learning", "torch", "transformers", "tokenizers")


@cache
def installed_software() -> tuple[tuple[str, str], ...]:
    """Return the releases of Python and of the packages that compute weights, by name."""
    return (("python", python_version()), *filter(None, map(_release, _PACKAGES)))


def _release(package: str) -> tuple[str, str] | None:
    try:
        return package, version(package)
    except PackageNotFoundError:
        return None
