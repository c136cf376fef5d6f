"""The starter model: a small causal language model that ships with the package."""

from pathlib import Path

__all__ = ["starter_path"]


def starter_path() -> Path:
    """The folder of the shipped model, in Hugging Face format."""
    return Path(__file__).parent / "model"
