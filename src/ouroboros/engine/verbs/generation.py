"""Answering with an adapter, and judging its answers against those expected."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from ouroboros.backend.base import GenerateRequest, GenerationChunk, ScoreRequest
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.data import Prompt, TrainingExample, check_prompt
from ouroboros.domain.errors import OuroborosError
from ouroboros.domain.generation import Generation, GenerationConfig
from ouroboros.domain.names import AUTO_ADAPTER, AdapterId, VersionRef
from ouroboros.domain.result import Err, Ok, Result
from ouroboros.domain.results import Evaluation
from ouroboros.domain.routing import RouteMatch
from ouroboros.engine.core import check_examples, verb
from ouroboros.engine.verbs.routing import RoutingVerbs

EVALUATION_BATCH = 32


class GenerationVerbs(RoutingVerbs):
    @verb
    async def generate_with_adapter(
        self,
        prompt: Prompt,
        adapter_id: str | AdapterId | VersionRef | None = None,
        config: GenerationConfig | None = None,
        *,
        cancel: CancellationToken | None = None,
    ) -> Generation:
        """Answer `prompt` with an adapter's head, with one version ("tickets@3"), or with the bare base.

        An unknown adapter is an error, never a silent answer from the base. "auto" asks the adapter that
        knows the task, or the base if none is sure to; `found` of the generation says which and why.
        """
        request, version, found = await self._request(prompt, adapter_id, config)
        (generation,) = await self._backend.generate([request], cancel)
        return replace(generation, version=version, found=found)

    async def stream_with_adapter(
        self,
        prompt: Prompt,
        adapter_id: str | AdapterId | VersionRef | None = None,
        config: GenerationConfig | None = None,
        *,
        cancel: CancellationToken | None = None,
    ) -> AsyncIterator[Result[GenerationChunk]]:
        """As `generate_with_adapter`, piece by piece; the last piece carries the whole generation."""
        try:
            request, version, found = await self._request(prompt, adapter_id, config)
            async for delta in self._backend.stream(request, cancel):
                if delta.generation is not None:
                    whole = replace(delta.generation, version=version, found=found)
                    delta = replace(delta, generation=whole)
                yield Ok(delta)
        except OuroborosError as error:
            yield Err(error)

    @verb
    async def evaluate_adapter(
        self,
        adapter_id: str | AdapterId | VersionRef | None,
        examples: Sequence[TrainingExample],
        *,
        cancel: CancellationToken | None = None,
    ) -> Evaluation:
        """Answer every example's input greedily and compare with its output."""
        check_examples(examples)
        digest, _ = await self._load(adapter_id)
        answers: list[str] = []
        logprobs: list[float] = []
        for start in range(0, len(examples), EVALUATION_BATCH):
            batch = examples[start : start + EVALUATION_BATCH]
            asked = [GenerateRequest(e.input, adapter=digest) for e in batch]
            answers += [g.text for g in await self._backend.generate(asked, cancel)]
            scored = await self._backend.score(
                [ScoreRequest(e.input, e.output, digest) for e in batch], cancel
            )
            logprobs += [p for score in scored for p in score.logprobs]
        correct = sum(a.strip() == e.output.strip() for a, e in zip(answers, examples, strict=True))
        return Evaluation(len(examples), correct, sum(logprobs) / len(logprobs), tuple(answers))

    async def _request(
        self,
        prompt: Prompt,
        adapter_id: str | AdapterId | VersionRef | None,
        config: GenerationConfig | None,
    ) -> tuple[GenerateRequest, str | None, RouteMatch | None]:
        config = config or GenerationConfig()
        check_prompt("prompt", prompt)
        config.check()
        found = None
        if str(adapter_id) == AUTO_ADAPTER:
            found = await self._nearest(prompt)
            adapter_id = found.adapter if found and found.sure else None
        digest, version = await self._load(adapter_id)
        return GenerateRequest(prompt, config, digest), version, found

    async def _load(
        self, adapter_id: str | AdapterId | VersionRef | None
    ) -> tuple[str | None, str | None]:
        """See that the backend holds a version; its digest and its name. None is the base."""
        if adapter_id is None:
            return None, None
        ref = VersionRef.parse(adapter_id)
        await self._adapter(ref.adapter)
        version = await self._registry.version(ref)
        if not await self._backend.loaded(version.digest):
            await self._backend.load(await self._registry.files(version))
        return version.digest, str(version.ref)
