"""The local backend: PyTorch in this process."""

import os

# Before torch is loaded, which reads it once: threads that have nothing to do sleep. By default they
# spin, and whenever another program has a core, all others spin for it (docs/decisions/0007).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from ouroboros.backend.local.backend import LocalBackend

__all__ = ["LocalBackend"]
