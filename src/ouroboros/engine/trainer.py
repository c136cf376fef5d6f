"""`Trainer`: from examples in the journal to a judged candidate."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from ouroboros.backend.base import NO_CHECKPOINTS, Backend, Checkpoints, TrainJob
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import TrainingConfig
from ouroboros.domain.data import Row, TrainingExample
from ouroboros.domain.records import Adapter
from ouroboros.domain.training import OnProgress
from ouroboros.domain.verdict import ExampleRef
from ouroboros.domain.weights import AdapterFiles
from ouroboros.engine.gate import Candidate, JudgedCandidate, PromotionGate
from ouroboros.learning.gate.walk_back import retry_job
from ouroboros.learning.replay.class_weights import balance_classes
from ouroboros.learning.replay.probes import Probe, ProbeKind


@dataclass(frozen=True, slots=True)
class TrainingInputs:
    """The examples of the journal's `event`, and `start`, the files of the head they are trained on."""

    adapter: Adapter
    start: AdapterFiles
    examples: tuple[TrainingExample, ...]
    event: int
    training: TrainingConfig


class Trainer:
    """Trains with replay and puts the result to the gate. Stores nothing."""

    def __init__(self, backend: Backend, gate: PromotionGate) -> None:
        self._backend = backend
        self._gate = gate

    async def train_candidate(
        self,
        inputs: TrainingInputs,
        on_progress: OnProgress | None = None,
        cancel: CancellationToken | None = None,
        checkpoints: Checkpoints = NO_CHECKPOINTS,
    ) -> JudgedCandidate:
        """Train on `inputs` and judge the result. Depends on the inputs and the journal alone."""
        # 1. Hold a few examples out, to measure what the others taught.
        adapter, examples = inputs.adapter, inputs.examples
        knowledge = await self._gate.knowledge(adapter)
        held_out = knowledge.select_held_out(examples)
        new_rows = [Row.from_example(e) for i, e in enumerate(examples) if i not in held_out]
        # 2. Train on the rest, together with rows that the adapter knows already.
        rows, replay = balance_classes(new_rows, knowledge.list_replay_rows(), inputs.training.replay)
        config, rate = adapter.config, inputs.training.learning_rate
        config = config if rate is None else replace(config, learning_rate=rate)
        job = TrainJob(inputs.start, config, inputs.training, rows, replay, anchors=None)
        first_job = replace(job, checkpoints=checkpoints)
        outcome = await self._backend.train(first_job, on_progress, cancel)
        # 3. Judge the candidate; the gate may repair it or have it trained again.
        fresh = _held_out_probes(examples, held_out, inputs.event)
        return await self._gate.judge(
            adapter.id,
            Candidate(inputs.start, outcome, rows, knowledge.list_probes(), fresh),
            retry=lambda: self._backend.train(retry_job(job), on_progress, cancel),
            cancel=cancel,
        )


def _held_out_probes(
    examples: Sequence[TrainingExample], held_out: Collection[int], event: int
) -> list[Probe]:
    """The examples that were held out, as the probes that they are from now on."""
    return [Probe(ExampleRef(event, i), examples[i], ProbeKind.HELD_OUT) for i in sorted(held_out)]
