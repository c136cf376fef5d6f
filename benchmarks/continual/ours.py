"""Our arm: the engine as a user runs it, stage by stage, with its replay, its probes and its gate."""

import asyncio
from collections.abc import Generator, Sequence

from benchmarks.continual.arms import Dials
from benchmarks.continual.model import Bench
from benchmarks.continual.streams import Stage
from ouroboros.backend.local import LocalBackend
from ouroboros.domain.errors import Refused
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.performance import GateCounts
from ouroboros.domain.result import Err
from ouroboros.engine import AdapterLearningEngine
from ouroboros.lora.peft_files import unpack
from ouroboros.lora.weights import LoraWeights
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import MEMORY, open_blobs, open_metadata

NAME = AdapterId("stream")


def ours(
    bench: Bench, stages: Sequence[Stage], dials: Dials
) -> Generator[LoraWeights, None, GateCounts]:
    """The head's weights after each stage; a refused stage leaves the head where it was. Returns what
    the gate did."""
    registry = Registry(open_metadata(MEMORY), open_blobs(MEMORY))
    backend = LocalBackend(bench.runtime)
    engine = AdapterLearningEngine(backend, registry, replay_rows=dials.n_kept)
    with asyncio.Runner() as runner:
        runner.run(engine.create_adapter(NAME, bench.config, seed=dials.seed)).unwrap()
        for stage in stages:
            trained = runner.run(engine.train_adapter(NAME, stage.train, bench.training))
            if isinstance(trained, Err) and not isinstance(trained.error, Refused):
                raise trained.error
            head = registry.get_version(VersionRef(NAME))
            yield unpack(registry.load_files(head)).weights
        gated = runner.run(engine.track_adapter(NAME)).unwrap().gate_counts
        runner.run(engine.close())
    return gated
