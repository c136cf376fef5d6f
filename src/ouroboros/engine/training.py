"""Training on examples."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ouroboros.backend.base import TrainJob
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import TrainingConfig
from ouroboros.domain.examples import TrainingExample
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter, Version
from ouroboros.domain.rows import Row
from ouroboros.domain.training import OnProgress
from ouroboros.domain.verdict import Place
from ouroboros.domain.weights import AdapterFiles
from ouroboros.engine.core import Core, check_examples, raise_if_cancelled, verb
from ouroboros.gatekeeper import Candidate, Judged, refusal
from ouroboros.learning.probes import Probe, ProbeKind
from ouroboros.learning.repair import gentler
from ouroboros.registry.threads import in_thread


@dataclass(frozen=True, slots=True)
class Teaching:
    """The journal's `event`, its examples, and what they are to be taught to: the head of `adapter`."""

    adapter: Adapter
    start: AdapterFiles
    examples: tuple[TrainingExample, ...]
    event: int
    training: TrainingConfig


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

        It becomes so only if it has learned them and is no worse at what the adapter knew: a few of
        many examples are held out to measure that, now and at every later update, and some of what it
        knew is trained along. Otherwise it is kept unserved, and the error is `Refused`. The examples
        are journalled before training starts. `on_progress` is called after each optimizer step, from
        another thread.
        """
        ref = VersionRef.parse(adapter_id)
        training = config or TrainingConfig.default()
        training.check()
        check_examples(examples)
        await self._backend.check(tuple(map(Row.of, examples)))
        async with self._writing[ref.adapter]:
            adapter = await self._adapter(ref.adapter)
            head = await in_thread(self._registry.version, VersionRef(adapter.id))
            start = await in_thread(self._registry.files, head)
            events = await in_thread(self._registry.journal.examples, adapter.id, examples)
            raise_if_cancelled(cancel)
            lesson = Teaching(adapter, start, tuple(examples), events, training)
            judged = await self._trained(lesson, on_progress, cancel)
            raise_if_cancelled(cancel)
            version = await in_thread(
                self._registry.commit,
                adapter.id,
                judged.outcome.files,
                parent=head.number,
                cause="trained",
                training=training,
                report=judged.outcome.report,
                events=events,
                verdict=judged.verdict,
            )
            if version.refused:
                raise refusal(version, head.number)
            await self._gatekeeper.promoted(adapter.id, judged)
            return version

    async def _trained(
        self,
        lesson: Teaching,
        on_progress: OnProgress | None = None,
        cancel: CancellationToken | None = None,
    ) -> Judged:
        """Train, and put what came of it to the gate. Depends on the lesson and the journal alone."""
        adapter, examples = lesson.adapter, lesson.examples
        knowledge = await self._gatekeeper.knowledge(adapter)
        out = knowledge.split(examples)
        rows = tuple(Row.of(e) for i, e in enumerate(examples) if i not in out)
        job = TrainJob(lesson.start, adapter.config, lesson.training, rows, knowledge.rows())
        outcome = await self._backend.train(job, on_progress, cancel)
        fresh = _fresh(examples, out, lesson.event)
        return await self._gatekeeper.judge(
            adapter.id,
            Candidate(lesson.start, outcome, rows, knowledge.probes(), fresh),
            retry=lambda: self._backend.train(gentler(job), on_progress, cancel),
            cancel=cancel,
        )


def _fresh(examples: Sequence[TrainingExample], out: Collection[int], event: int) -> list[Probe]:
    """What was held out of the examples, as the probes that it will be from now on."""
    return [Probe(Place(event, i), examples[i], ProbeKind.HELD_OUT) for i in sorted(out)]
