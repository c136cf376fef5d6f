"""Making adapters, from nothing or from files, finding them in the registry, and letting them go."""

from dataclasses import replace

from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.checks import check_int
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.data import check_text
from ouroboros.domain.errors import InvalidName, TooLarge
from ouroboros.domain.limits import MAX_DESCRIPTION, MAX_IMPORT, check_length
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter
from ouroboros.domain.weights import AdapterFiles, ExportForm, ShrunkFiles
from ouroboros.engine.checks import raise_if_cancelled
from ouroboros.engine.core import Core, verb
from ouroboros.lora.planning import resolve_config


class AdapterVerbs(Core):
    """Create, list, import, export and delete adapters."""

    @verb
    async def create_adapter(
        self,
        task_name: str | AdapterId,
        config: AdapterConfig | None = None,
        *,
        description: str = "",
        seed: int = 0,
        cancel: CancellationToken | None = None,
    ) -> Adapter:
        """Create an adapter whose version 1 answers exactly as the base does.

        Args:
            task_name: the adapter's name; any printable text of one line without "@".
            config: rank, layers, learning rate and precision; by default what learns well on this base
                (`AdapterConfig.auto`). If the adapter exceeds 10 MiB in bfloat16 and `config` names no
                precision, it is stored in int8 or else in int4, and its config says so: other programs
                then read what `export_adapter` writes, not the stored files.
            description: what the task is; `find_adapters` matches it until the adapter has learned.
            seed: of the random factor of each layer.
            cancel: stops before anything is stored.

        Returns:
            The adapter. Err: `InvalidName`, `InvalidConfig`, `UnknownTarget`, `TooLarge`,
            `AlreadyExists`, `ModelError`, `Cancelled`.
        """
        adapter_id = task_name if isinstance(task_name, AdapterId) else AdapterId(task_name)
        adapter_id.check()
        if config is not None:
            config.check()
        if description:
            check_text("description", description)
            check_length("description", description, MAX_DESCRIPTION)
        await self._registry.require_name_free(adapter_id)
        base = await self._backend.base()
        config = resolve_config(base, config or AdapterConfig.auto(base))
        files = await self._backend.initialize(config, seed)
        raise_if_cancelled(cancel)
        return await self._registry.create_adapter(
            adapter_id, config, base, files, seed=seed, description=description
        )

    @verb
    async def import_adapter(self, name: str | AdapterId, files: AdapterFiles) -> Adapter:
        """Create an adapter from the files of a PEFT folder, which are stored byte for byte.

        Returns:
            The adapter, with its rank and layers as in the files. Err: `InvalidAdapter` if the files
            are damaged, unsafe or of an unsupported kind, `BaseMismatch` if they were made for another
            base, `TooLarge` over 10 MiB (see `shrink_adapter_files`), `InvalidName`, `AlreadyExists`.
        """
        adapter_id = AdapterId(str(name))
        adapter_id.check()
        await self._registry.require_name_free(adapter_id)
        shape = await self._backend.validate(files)
        base = await self._backend.base()
        config = replace(shape, learning_rate=AdapterConfig.auto(base).learning_rate)
        return await self._registry.create_adapter(adapter_id, config, base, files, "imported")

    @verb
    async def shrink_adapter_files(
        self, files: AdapterFiles, *, cancel: CancellationToken | None = None
    ) -> ShrunkFiles:
        """Cut an adapter of another program, of up to 512 MiB, to the largest rank that fits 10 MiB.

        Each layer's update is replaced by its best approximation of that rank (singular value
        decomposition). Nothing is stored: give the returned files to `import_adapter`.

        Returns:
            The files, both ranks, and the relative error of the updates, from 0 to 1. Err: `TooLarge`
            if no rank fits, `InvalidAdapter`, `BaseMismatch`, `Cancelled`.
        """
        if len(files.weights) > MAX_IMPORT:
            raise TooLarge(
                f"The weights have {len(files.weights):,} bytes; at most {MAX_IMPORT:,} can be shrunk.",
                hint="Train it with a lower rank.",
            )
        cut = await self._backend.shrink(files, cancel)
        return ShrunkFiles(cut.files, cut.config.rank, cut.lossless_rank, cut.relative_error)

    @verb
    async def export_adapter(
        self, adapter_id: str | AdapterId | VersionRef, form: ExportForm = ExportForm.PEFT
    ) -> dict[str, bytes]:
        """Export an adapter's head, or one version ("tickets@3"), as files for other programs.

        Returns:
            The bytes of each file by its name, in PEFT's format or the `form` that is given. Err:
            `NotFound`, `BaseMismatch`, and `StoreError` if the stored weights are damaged.
        """
        ref = VersionRef.parse(adapter_id)
        await self._loader.get_adapter(ref.adapter)
        version = await self._registry.get_version(ref)
        return await self._backend.export(await self._registry.load_files(version), form)

    @verb
    async def list_adapters(self, *, after: str = "", limit: int | None = None) -> list[Adapter]:
        """List all adapters by name, or the next `limit` whose names sort after `after`.

        Returns:
            The adapters, sorted by name. Err: `InvalidConfig` if `limit` is out of range, `StoreError`.
        """
        if limit is not None:
            check_int("limit", limit, 1, 1_000_000)
        return await self._registry.list_adapters(after, limit)

    @verb
    async def get_adapter(self, adapter_id: str | AdapterId) -> Adapter:
        """Return an adapter by its name. Err: `InvalidName`, `NotFound`."""
        return await self._registry.get_adapter(VersionRef.parse(adapter_id).adapter)

    @verb
    async def delete_adapter(self, adapter_id: str | AdapterId) -> None:
        """Delete an adapter with its versions, journal and probes.

        Adapters that were merged from it stay, but lose the texts of its examples. Its version numbers
        are never used again. Err: `InvalidName` if a single version is named, `NotFound`.
        """
        ref = VersionRef.parse(adapter_id)
        if ref.number is not None:
            raise InvalidName(
                f"{ref} is one version, and an adapter is deleted whole.",
                hint=f"Name the adapter, {ref.adapter}, or serve another version with rollback_adapter.",
            )
        adapter = ref.adapter
        await self._registry.delete_adapter(adapter)
        self._gate.drop_cached(adapter)
