"""Finding the adapter that knows a task."""

from ouroboros.engine.routing.router import AdapterRouter, BaseEmbedder

__all__ = ["AdapterRouter", "BaseEmbedder"]
