"""Watching the gate: a stream taught through the engine, each update judged on far more than probes.

The gate sees its probes alone. Here every version it let through, and every one it refused, is compared
with its parent on the whole test sets of all earlier stages.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.continual.streams import Stage
from ouroboros.backend.base import Backend, ScoreRequest
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Version
from ouroboros.domain.verdict import Change
from ouroboros.engine import AdapterLearningEngine
from ouroboros.learning.feedback.rate_limit import UserLimit
from ouroboros.learning.gate.intervals import compare_answers
from ouroboros.learning.gate.policy import GatePolicy
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import MEMORY, open_blobs, open_metadata

NAME = AdapterId("stream")

GATE = GatePolicy()
SURE = 0.8
"""Confidence with which a version is said to have fallen: the test sets are large enough for that."""

OPEN = GatePolicy(tolerance=1.0, erosion=1.0, drift=100.0, strength=1000.0)
"""Lets everything pass that is finite and learned something."""


@dataclass(frozen=True)
class Update:
    """One new version beside its parent. `known` is None where there were no earlier stages."""

    promoted: bool
    failed: tuple[str, ...]
    share: float
    known: Change | None
    training: float
    judging: float

    @property
    def fell(self) -> bool:
        """By more than is tolerated, and by more than chance."""
        return self.known is not None and self.known.is_significant_fall(GATE.tolerance)

    @property
    def missed(self) -> bool:
        """Let through, though it fell."""
        return self.promoted and self.fell

    @property
    def refused_falsely(self) -> bool:
        return not self.promoted and not self.fell


@dataclass(frozen=True)
class WatchedAdapter:
    """An adapter in an engine of its own, in memory."""

    backend: Backend
    registry: Registry
    engine: AdapterLearningEngine

    @classmethod
    async def fresh(
        cls,
        backend: Backend,
        gate: GatePolicy = GATE,
        limit: UserLimit | None = None,
        *,
        n_kept: int = 100,
        seed: int = 0,
    ) -> "WatchedAdapter":
        """`n_kept` rows are remembered for replay, at most."""
        registry = Registry(open_metadata(MEMORY), open_blobs(MEMORY))
        base = await backend.base()
        config = AdapterConfig.auto(base)
        registry.create_adapter(NAME, config, base, await backend.initialize(config, seed))
        engine = AdapterLearningEngine(backend, registry, limit, gate, replay_rows=n_kept)
        return cls(backend, registry, engine)

    async def teach(
        self, rows: Sequence[TrainingExample], known: Sequence[TrainingExample], seed: int = 0
    ) -> Update:
        """One training at its defaults; `known` is what the adapter was taught before, held out."""
        head = self.registry.get_adapter(NAME).head
        training = TrainingConfig.auto(len(rows), seed=seed)
        result = await self.engine.train_adapter(NAME, rows, training)
        version = self.registry.list_versions(NAME)[-1]
        if version.number == head:
            result.unwrap()
        return await self.update(version, known)

    async def update(self, version: Version, known: Sequence[TrainingExample]) -> Update:
        """How a version does beside its parent."""
        assert version.parent is not None and version.verdict is not None and version.report is not None
        parent = self.registry.get_version(VersionRef(NAME, version.parent))
        change = None
        if known:
            before, after = [await self.check_answers(v, known) for v in (parent, version)]
            change = compare_answers(before, after, SURE)
        verdict = version.verdict
        return Update(
            promoted=verdict.promoted,
            failed=tuple(dict.fromkeys(c.name.value for c in verdict.failed_checks)),
            share=verdict.share,
            known=change,
            training=version.report.seconds,
            judging=verdict.seconds,
        )

    async def check_answers(self, version: Version, examples: Sequence[TrainingExample]) -> list[bool]:
        """Which examples greedy decoding answers exactly."""
        digest = await self.backend.load(self.registry.load_files(version))
        requests = [ScoreRequest(e.input, e.output, digest) for e in examples]
        return [score.is_greedy for score in await self.backend.score(requests)]

    async def accuracy(self, examples: Sequence[TrainingExample]) -> float:
        """Of the version that is served."""
        correct = await self.check_answers(self.registry.get_version(VersionRef(NAME)), examples)
        return sum(correct) / len(correct)


def earlier(stages: Sequence[Stage]) -> Iterator[tuple[Stage, list[TrainingExample]]]:
    """Each stage with the test rows of all that came before it."""
    known: list[TrainingExample] = []
    for stage in stages:
        yield stage, list(known)
        known += stage.test
