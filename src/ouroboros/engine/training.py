"""Training on examples."""

import functools
from collections.abc import Sequence

from ouroboros.backend.base import TrainJob
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import TrainingConfig
from ouroboros.domain.examples import TrainingExample
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Version
from ouroboros.domain.rows import Row
from ouroboros.domain.training import OnProgress
from ouroboros.engine.core import Core, check_examples, raise_if_cancelled, verb
from ouroboros.tutor import in_thread


class Training(Core):
    @verb
    async def train_adapter(
        self,
        adapter_id: str | AdapterId,
        examples: Sequence[TrainingExample],
        config: TrainingConfig | None = None,
        *,
        on_progress: OnProgress | None = None,
        cancel: CancellationToken | None = None,
    ) -> Version:
        """Train the adapter's head on `examples`; the result is a new version, which becomes the head.

        The examples are journalled before training starts. `on_progress` is called after each optimizer
        step, from another thread.
        """
        ref = VersionRef.parse(adapter_id)
        training = config or TrainingConfig.default()
        training.check()
        check_examples(examples)
        rows = tuple(map(Row.of, examples))
        await self._backend.check(rows)
        async with self._writing[ref.adapter]:
            adapter = await self._adapter(ref.adapter)
            head = await in_thread(self._registry.version, VersionRef(adapter.id))
            start = await in_thread(self._registry.files, head)
            events = await in_thread(self._registry.journal.examples, adapter.id, examples)
            raise_if_cancelled(cancel)
            job = TrainJob(start, adapter.config, training, rows)
            outcome = await self._backend.train(job, on_progress, cancel)
            raise_if_cancelled(cancel)
            commit = functools.partial(
                self._registry.commit,
                parent=head.number,
                cause="trained",
                training=training,
                report=outcome.report,
                events=events,
            )
            return await in_thread(commit, adapter.id, outcome.files)
