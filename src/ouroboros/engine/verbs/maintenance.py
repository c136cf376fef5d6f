"""Looking after the store: is it whole, what can go, and a copy of it all."""

from datetime import timedelta
from pathlib import Path

from ouroboros.domain.records import Adapter
from ouroboros.engine.core import Core, verb
from ouroboros.registry.backup import BackupContents, restore_backup, write_backup
from ouroboros.registry.fsck import GRACE, StoreReport, check_store, collect_garbage, repair_heads
from ouroboros.registry.threads import in_thread


class MaintenanceVerbs(Core):
    """Check, clean, back up and restore the store."""

    @verb
    async def check_store(self) -> StoreReport:
        """Verify the digest of every version, and report damage and files that nothing uses."""
        return await self._registry.run(check_store)

    @verb
    async def repair_store(self, checkup: StoreReport) -> list[Adapter]:
        """Serve a sound version where the head is damaged; returns the adapters that were moved."""
        return await self._registry.run(repair_heads, checkup)

    @verb
    async def collect_garbage(self, grace: timedelta = GRACE) -> list[str]:
        """Remove weights that no version has used for `grace`; returns their digests."""
        return await self._registry.run(collect_garbage, grace)

    @verb
    async def backup_store(self, file: Path) -> BackupContents:
        """Write the whole store into one new file, which appears whole or not at all."""
        return await in_thread(write_backup, *self._registry.blocking.stores, file)

    @verb
    async def restore_store(self, file: Path) -> BackupContents:
        """Fill this store, which must be empty, from a backup."""
        return await in_thread(restore_backup, file, *self._registry.blocking.stores)
