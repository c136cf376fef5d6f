"""What people say of each version."""

from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.performance import Performance, UsageCounts
from ouroboros.engine.core import Core, verb


class PerformanceVerbs(Core):
    """Follow how users judge the answers of each version."""

    @verb
    async def track_adapter(self, adapter_id: str | AdapterId) -> Performance:
        """Return the judgements of each version's answers, and whether they get better or worse."""
        adapter = await self._registry.get_adapter(VersionRef.parse(adapter_id).adapter)
        versions = await self._registry.list_versions(adapter.id)
        tracker = await self._monitor.read_tracker(adapter)
        return Performance(
            tuple((v, tracker.usage.get(str(v.ref), UsageCounts())) for v in versions), tracker.trend
        )
