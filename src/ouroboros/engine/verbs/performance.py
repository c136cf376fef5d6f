"""What people say of each version, and going back when they say that a new one is worse."""

from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter, Version
from ouroboros.domain.tracking import Performance, UsageCounts
from ouroboros.engine.core import Core, verb
from ouroboros.learning.gate.performance import PerformanceTracker, Regression, find_regression

LINE = 64
"""Versions back from the head that are compared with what is new."""


class PerformanceVerbs(Core):
    @verb
    async def track_adapter(self, adapter_id: str | AdapterId) -> Performance:
        """Every version with what was said of its answers, and whether that rises or falls."""
        adapter = await self._registry.get(VersionRef.parse(adapter_id).adapter)
        versions = await self._registry.versions(adapter.id)
        tracker = await self._tracked(adapter)
        return Performance(
            tuple((v, tracker.uses.get(str(v.ref), UsageCounts())) for v in versions), tracker.trend
        )

    async def _use(self, version: Version) -> UsageCounts:
        """What was said of a version and of what it was made from: `score` is what merging weighs by."""
        adapter = await self._registry.get(version.adapter)
        tracker = await self._tracked(adapter)
        line = await self._registry.lineage(version.ref, limit=LINE)
        return sum((tracker.uses.get(str(v.ref), UsageCounts()) for v in line), UsageCounts())

    async def _watch(self, adapter: AdapterId, event: int) -> None:
        """Serve an earlier version if this event completes the evidence that later ones are worse."""
        if not self._auto_rollback or await self._fallen(adapter, event) is None:
            return
        async with self._writing[adapter]:
            found = await self._fallen(adapter, event)  # what was written meanwhile may change it
            if found is not None:
                ref, reason = found
                await self._registry.rollback(ref, reason=reason)

    async def _fallen(self, adapter_id: AdapterId, event: int) -> tuple[VersionRef, str] | None:
        """The version to go back to, and why."""
        adapter = await self._registry.get(adapter_id)
        tracker = await self._tracked(adapter)
        line = await self._registry.lineage(VersionRef(adapter_id), limit=LINE)
        heard = [tracker.heard.get(str(v.ref), []) for v in line]
        fall = find_regression(heard, self._auto_rollback, event)
        return fall and (line[fall.cut].ref, _reason(line[fall.cut - 1], fall))

    async def _tracked(self, adapter: Adapter) -> PerformanceTracker:
        """The adapter's judgements, up to the journal's end."""
        tracker = self._trackers.setdefault((adapter.id, adapter.born), PerformanceTracker(adapter.born))
        while entries := await self._registry.journal.read(adapter.id, after=tracker.read_to):
            for entry in entries:
                if entry.seq > tracker.read_to:  # another verb may be reading too
                    tracker.take(entry.seq, entry.event)
        return tracker


def _reason(first: Version, fall: Regression) -> str:
    after, before = fall.after, fall.before
    return (
        f"judged worse since @{first.number}: {after.good} of {after.judged} right, {before.good} of"
        f" {before.judged} before (by chance: {fall.chance:.1g})"
    )
