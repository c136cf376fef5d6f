"""Finding the adapter that knows a task."""

from ouroboros.finder.finder import BaseEmbedder, Finder

__all__ = ["BaseEmbedder", "Finder"]
