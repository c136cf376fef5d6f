"""The local backend: PyTorch in this process."""

from ouroboros.backend.local.backend import LocalBackend

__all__ = ["LocalBackend"]
