"""The local backend: PyTorch in this process."""

from ouroboros.backend.local.runtime.openmp import load_torch

load_torch()

from ouroboros.backend.local.backend import LocalBackend  # noqa: E402

__all__ = ["LocalBackend"]
