"""`Evaluator`: an adapter's answers to examples, beside the outputs that are expected."""

from collections.abc import Sequence

from ouroboros.backend.base import Backend, GenerateRequest, ScoreRequest
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.results import Evaluation
from ouroboros.engine.checks import check_examples
from ouroboros.engine.version_loader import VersionLoader

EVALUATION_BATCH = 32
"""Examples that are answered and scored in one request to the backend."""


class Evaluator:
    """Generates an answer for every example and scores the expected one."""

    def __init__(self, backend: Backend, loader: VersionLoader) -> None:
        self._backend = backend
        self._loader = loader

    async def evaluate(
        self,
        adapter_id: str | AdapterId | VersionRef | None,
        examples: Sequence[TrainingExample],
        cancel: CancellationToken | None = None,
    ) -> Evaluation:
        """Answer every input greedily and compare with the output; None asks the base."""
        check_examples(examples, may_be_empty=True)
        digest, _ = await self._loader.load(adapter_id)
        answers: list[str] = []
        logprobs: list[float] = []
        for start in range(0, len(examples), EVALUATION_BATCH):
            batch = examples[start : start + EVALUATION_BATCH]
            requests = [GenerateRequest(e.input, adapter=digest) for e in batch]
            answers += [g.text for g in await self._backend.generate(requests, cancel)]
            scores = await self._backend.score(
                [ScoreRequest(e.input, e.output, digest) for e in batch], cancel
            )
            logprobs += [p for score in scores for p in score.logprobs]
        correct = sum(a.strip() == e.output.strip() for a, e in zip(answers, examples, strict=True))
        return Evaluation(len(examples), correct, sum(logprobs) / len(logprobs), tuple(answers))
