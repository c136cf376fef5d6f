"""`VersionLoader`: from a name to an adapter of this base, and to a version that the backend holds."""

from ouroboros.backend.base import Backend, MergeJob
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.merging import MergeRecipe, MergeStrategy
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter
from ouroboros.domain.weights import AdapterFiles
from ouroboros.registry.async_registry import AsyncRegistry


class VersionLoader:
    """Reads adapters and versions from the registry for the backend."""

    def __init__(self, backend: Backend, registry: AsyncRegistry) -> None:
        self._backend = backend
        self._registry = registry

    async def get_adapter(self, adapter_id: AdapterId) -> Adapter:
        """Return the adapter. Raises `NotFound`, and `BaseMismatch` if it was made for another base."""
        adapter = await self._registry.get_adapter(adapter_id)
        base = await self._backend.base()
        base.fingerprint.require_equal(adapter.base, f"Adapter {adapter.id.name!r}")
        return adapter

    async def list_adapters(self, adapter_id: str | AdapterId | None) -> list[Adapter]:
        """Return the one adapter of this name, or all adapters for None."""
        if adapter_id is None:
            return await self._registry.list_adapters()
        return [await self.get_adapter(VersionRef.parse(adapter_id).adapter)]

    async def load(
        self, adapter_id: str | AdapterId | VersionRef | None
    ) -> tuple[str | None, str | None]:
        """Have the backend hold a version; returns its digest and its name. None is the base."""
        if adapter_id is None:
            return None, None
        ref = VersionRef.parse(adapter_id)
        await self.get_adapter(ref.adapter)
        version = await self._registry.get_version(ref)
        if not await self._backend.is_loaded(version.digest):
            await self._backend.load(await self._registry.load_files(version))
        return version.digest, str(version.ref)

    async def measure_distance(
        self, old: AdapterFiles, new: AdapterFiles, cancel: CancellationToken | None
    ) -> float:
        """The norm of the difference of two updates, as a share of the norm of the adapted layers."""
        if old.digest == new.digest:
            return 0.0
        minus = MergeRecipe(MergeStrategy.TASK_ARITHMETIC, weights=(1.0, -1.0))
        difference = await self._backend.merge(MergeJob((new, old), minus), cancel)
        return await self._backend.measure_strength(difference.files)
