"""The starter model: a small causal language model that ships with the package."""

from pathlib import Path

__all__ = ["examples_path", "starter_path"]


def starter_path() -> Path:
    """Return the folder of the shipped model, in Hugging Face format."""
    return Path(__file__).parent / "model"


def examples_path() -> Path:
    """Return the folder of the example tasks: beside the packaged model, or `examples/data` in a
    checkout.
    """
    packed = Path(__file__).parent / "examples"
    return packed if packed.is_dir() else Path(__file__).parents[3] / "examples" / "data"
