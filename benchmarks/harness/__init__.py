"""What every benchmark is written with; `benchmarks/__init__.py` shows how."""

from benchmarks.harness.arms import fresh, interleave, seconds_of
from benchmarks.harness.claims import Claim, Spread, ratios

__all__ = ["Claim", "Spread", "fresh", "interleave", "ratios", "seconds_of"]
