"""Losses as configs: plain values that say which loss a row wants, so that they can cross a wire.

The formulas live where the tensors are (`backend.local.losses`), in one table keyed by these types.
"""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Supervised:
    """Cross-entropy on the output's tokens."""


Loss: TypeAlias = Supervised
