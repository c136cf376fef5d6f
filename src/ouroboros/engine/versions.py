"""The versions of an adapter, and which of them is served."""

from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter, Version
from ouroboros.engine.core import Core, verb
from ouroboros.registry.threads import in_thread


class Versions(Core):
    @verb
    async def get_versions(self, adapter_id: str | AdapterId) -> list[Version]:
        """Every version of an adapter, oldest first."""
        return await in_thread(self._registry.versions, VersionRef.parse(adapter_id).adapter)

    @verb
    async def rollback_adapter(self, version: str | VersionRef, *, replay: bool = False) -> Adapter:
        """Serve one version ("tickets@3") again, older or newer; the way back is the same.

        With `replay`, feedback learned since that version is pending again and learned with the next.
        """
        ref = VersionRef.parse(version)
        async with self._writing[ref.adapter]:
            return await in_thread(self._registry.rollback, ref, replay=replay)
