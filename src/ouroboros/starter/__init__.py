"""The starter model: a small causal language model that ships with the package."""

from pathlib import Path

__all__ = ["examples_path", "starter_path"]


def starter_path() -> Path:
    """The folder of the shipped model, in Hugging Face format."""
    return Path(__file__).parent / "model"


def examples_path() -> Path:
    """The folder of the example tasks: packed beside the model, and in a checkout `examples/data`."""
    packed = Path(__file__).parent / "examples"
    return packed if packed.is_dir() else Path(__file__).parents[3] / "examples" / "data"
