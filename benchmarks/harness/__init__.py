"""What every benchmark is written with; `benchmarks/__init__.py` shows how."""

from benchmarks.harness.arms import Times, fresh, interleave, times_of
from benchmarks.harness.claims import Claim, Spread, ratios

__all__ = ["Claim", "Spread", "Times", "fresh", "interleave", "ratios", "times_of"]
