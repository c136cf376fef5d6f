"""Finding the adapter that knows a task."""

from ouroboros.engine.routing.router import BaseEmbedder, Finder

__all__ = ["BaseEmbedder", "Finder"]
