"""`Evaluator`: an adapter's answers to examples, beside the outputs that are expected."""

from collections.abc import Sequence
from statistics import fmean

from ouroboros.backend.base import Backend, GenerateRequest, Score, ScoreRequest
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.generation import GenerationConfig
from ouroboros.domain.limits import MAX_NEW_TOKENS
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.results import Evaluation
from ouroboros.engine.checks import check_examples
from ouroboros.engine.instructions import InstructionReader, add_instructions
from ouroboros.engine.version_loader import VersionLoader

EVALUATION_BATCH = 32
"""Examples that are scored and answered in one request to the backend."""

LIMIT_SLACK = 1.5
"""Tokens that an answer may have for each token of the expected output, to show where it went wrong."""


class Evaluator:
    """Scores the expected output of every example, and generates the answers that differ from it.

    Scoring shows whether greedy decoding gives exactly the expected output, whatever its length. So the
    limit on generated tokens never decides whether an answer is right.
    """

    def __init__(self, backend: Backend, loader: VersionLoader, instructions: InstructionReader) -> None:
        self._backend = backend
        self._loader = loader
        self._instructions = instructions

    async def evaluate(
        self,
        adapter_id: str | AdapterId | VersionRef | None,
        examples: Sequence[TrainingExample],
        cancel: CancellationToken | None = None,
    ) -> Evaluation:
        """Compare the greedy answer to every input with the output; None asks the base."""
        check_examples(examples, may_be_empty=True)
        digest, version = await self._loader.load(adapter_id)
        instructions = await self._instructions.read(VersionRef.parse(version) if version else None)
        prompts = [add_instructions(e.input, instructions) for e in examples]
        scores: list[Score] = []
        answers: list[str] = []
        for start in range(0, len(examples), EVALUATION_BATCH):
            batch = examples[start : start + EVALUATION_BATCH]
            batch_prompts = prompts[start : start + EVALUATION_BATCH]
            # 1. The likelihood of the expected outputs, and whether greedy decoding gives them.
            batch_scores = await self._backend.score(
                [
                    ScoreRequest(prompt, e.output, digest)
                    for prompt, e in zip(batch_prompts, batch, strict=True)
                ],
                cancel,
            )
            scores += batch_scores
            # 2. What the version answers instead.
            requests = [
                GenerateRequest(prompt, GenerationConfig(max_tokens=_token_limit(score)), digest)
                for prompt, score in zip(batch_prompts, batch_scores, strict=True)
                if not score.is_greedy
            ]
            generated = iter(await self._backend.generate(requests, cancel) if requests else [])
            answers += [
                e.output if score.is_greedy else next(generated).text
                for e, score in zip(batch, batch_scores, strict=True)
            ]
        # Where two tokens are equally likely, decoding may give the output though scoring does not.
        right = [
            score.is_greedy or answer == example.output
            for score, answer, example in zip(scores, answers, examples, strict=True)
        ]
        logprobs = [p for score in scores for p in score.logprobs]
        return Evaluation(tuple(right), fmean(logprobs), tuple(answers))


def _token_limit(score: Score) -> int:
    """The most tokens to generate for an answer that differs from the scored output."""
    limit = max(GenerationConfig().max_tokens, round(LIMIT_SLACK * len(score.logprobs)))
    return min(limit, MAX_NEW_TOKENS)
