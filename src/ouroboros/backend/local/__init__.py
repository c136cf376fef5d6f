"""The local backend: PyTorch in this process."""

import os

# Before torch is loaded, which reads them once: threads that have nothing to do wait some microseconds
# for the next loop and then sleep. By default they spin for milliseconds, and whenever another program
# has a core, all others spin for it (docs/decisions/0007, "Threads").
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from ouroboros.backend.local.backend import LocalBackend

__all__ = ["LocalBackend"]
