"""Base models by name or by file: the bundled starter, SmolLM2, and any GGUF file.

Each becomes a folder in Hugging Face format. What has to be fetched or converted is done once and kept
in the user's cache folder. Importing this package imports no tensor library.
"""

from ouroboros.models.resolve import BY_NAME, STARTER, is_gguf, resolve_model

__all__ = ["BY_NAME", "STARTER", "is_gguf", "resolve_model"]
