"""`PerformanceMonitor`: how people judge each version, and the rollback when a new one is worse."""

from collections.abc import Iterable

from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.performance import UsageCounts
from ouroboros.domain.records import Adapter, Version
from ouroboros.learning.gate.performance import PerformanceTracker, Regression, find_regression
from ouroboros.registry.adapter_lock import Locks
from ouroboros.registry.async_registry import AsyncRegistry

LINEAGE = 64
"""Versions back from the head that are compared with the newest ones."""


class PerformanceMonitor:
    """Counts the judgements of every version, adapter by adapter.

    `auto_rollback` is how likely a head that is no worse may be rolled back; 0 turns rollbacks off.
    """

    def __init__(self, registry: AsyncRegistry, locks: Locks, auto_rollback: float) -> None:
        self._registry = registry
        self._locks = locks
        self._auto_rollback = auto_rollback
        self._trackers: dict[tuple[AdapterId, int, int], PerformanceTracker] = {}

    async def read_tracker(self, adapter: Adapter) -> PerformanceTracker:
        """Return the adapter's judgements, up to the journal's end."""
        key = (adapter.id, adapter.born, adapter.erasures)
        if key not in self._trackers:
            self.drop_cached(adapter.id)
        tracker = self._trackers.setdefault(key, PerformanceTracker(adapter.born))
        while entries := await self._registry.journal.read(adapter.id, after=tracker.read_to):
            for entry in entries:
                if entry.seq > tracker.read_to:  # another verb may be reading at the same time
                    tracker.add_event(entry.seq, entry.event)
        return tracker

    async def count_usage(self, version: Version) -> UsageCounts:
        """Return the judgements of a version and of those it was made from."""
        adapter = await self._registry.get_adapter(version.adapter)
        tracker = await self.read_tracker(adapter)
        lineage = await self._registry.list_lineage(version.ref, limit=LINEAGE)
        return sum((tracker.usage.get(str(v.ref), UsageCounts()) for v in lineage), UsageCounts())

    async def score_versions(self, versions: Iterable[Version]) -> list[float]:
        """Return how well people judged each version; empty unless all of them were judged."""
        usage = [await self.count_usage(version) for version in versions]
        return (
            [counts.smoothed_rate for counts in usage] if all(counts.judged for counts in usage) else []
        )

    async def roll_back_if_worse(self, adapter: AdapterId, event: int) -> None:
        """Serve an earlier version if `event` completes the evidence that later ones are worse."""
        if not self._auto_rollback or await self._choose_rollback(adapter, event) is None:
            return
        async with self._locks[adapter]:
            # A version that was committed while we waited for the lock may change the choice.
            choice = await self._choose_rollback(adapter, event)
            if choice is not None:
                ref, reason = choice
                await self._registry.rollback(ref, reason=reason)

    def drop_cached(self, adapter: AdapterId) -> None:
        """Call when events were erased from an adapter's journal."""
        for key in [k for k in self._trackers if k[0] == adapter]:
            del self._trackers[key]

    async def _choose_rollback(self, adapter_id: AdapterId, event: int) -> tuple[VersionRef, str] | None:
        """The version to go back to, and why; None if the head is no worse."""
        adapter = await self._registry.get_adapter(adapter_id)
        tracker = await self.read_tracker(adapter)
        lineage = await self._registry.list_lineage(VersionRef(adapter_id), limit=LINEAGE)
        judgements = [tracker.outcomes.get(str(v.ref), []) for v in lineage]
        regression = find_regression(judgements, self._auto_rollback, event)
        if regression is None:
            return None
        cut = regression.cut
        return lineage[cut].ref, _rollback_reason(lineage[cut - 1], regression)


def _rollback_reason(first: Version, regression: Regression) -> str:
    after, before = regression.after, regression.before
    return (
        f"judged worse since @{first.number}: {after.good} of {after.judged} right, {before.good} of"
        f" {before.judged} before (by chance: {regression.chance:.1g})"
    )
