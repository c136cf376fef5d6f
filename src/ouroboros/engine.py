"""`AdapterLearningEngine`: the one place that puts backend, learning and registry in sequence."""

import asyncio
import functools
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Concatenate, ParamSpec, TypeVar

from ouroboros.backend.base import Backend, Delta, GenerateRequest, MergeJob, ScoreRequest, TrainJob
from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.errors import InvalidExample, OuroborosError
from ouroboros.domain.evaluation import Evaluation
from ouroboros.domain.examples import TrainingExample
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.generation import Generation, GenerationConfig
from ouroboros.domain.merging import MergeRecipe, MergeReport, MergeStrategy
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.prompts import Prompt, check_prompt
from ouroboros.domain.records import Adapter, Ticket, Version
from ouroboros.domain.result import Err, Ok, Result
from ouroboros.domain.rows import Row
from ouroboros.domain.training import OnProgress
from ouroboros.domain.weights import AdapterFiles, ExportForm
from ouroboros.learning.limits import UserLimit
from ouroboros.learning.merging import check_distinct, merge_advice, weigh
from ouroboros.learning.signals import judgement
from ouroboros.registry.registry import Registry
from ouroboros.tutor import Tutor, in_thread

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound="AdapterLearningEngine")

EVALUATION_BATCH = 32


def _result(
    method: Callable[Concatenate[E, P], Awaitable[T]],
) -> Callable[Concatenate[E, P], Coroutine[Any, Any, Result[T]]]:
    """Hand out what a verb returns as `Ok`, our errors as `Err`; anything else is a bug and raises."""

    @functools.wraps(method)
    async def verb(self: E, *args: P.args, **kwargs: P.kwargs) -> Result[T]:
        try:
            return Ok(await method(self, *args, **kwargs))
        except OuroborosError as error:
            return Err(error)

    return verb


class AdapterLearningEngine:
    """Create, train, ask and keep adapters on one frozen base model.

    Every verb returns a `Result` and never blocks the event loop. Long verbs take a `CancellationToken`
    and honour asyncio cancellation as well: a cancelled training stops within one optimizer step and
    leaves the adapter as it was. (A cancellation that comes while the finished version is being
    committed is too late: the version exists.)
    """

    def __init__(
        self, backend: Backend, registry: Registry, feedback_limit: UserLimit | None = None
    ) -> None:
        self._backend = backend
        self._registry = registry
        self._writing: defaultdict[AdapterId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tutor = Tutor(backend, registry, self._writing, feedback_limit or UserLimit())

    async def __aenter__(self) -> "AdapterLearningEngine":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Release the model, threads and stores. Feedback not learned yet stays in the journal."""
        await self._tutor.close()
        await self._backend.close()
        await asyncio.to_thread(self._registry.close)

    @_result
    async def base(self) -> BaseModel:
        """The frozen base as a value; `AdapterConfig.auto` takes it."""
        return await self._backend.base()

    @_result
    async def create_adapter(
        self,
        task_name: str | AdapterId,
        config: AdapterConfig | None = None,
        *,
        seed: int = 0,
        cancel: CancellationToken | None = None,
    ) -> Adapter:
        """A new adapter whose version 1 answers exactly as the base does."""
        adapter_id = task_name if isinstance(task_name, AdapterId) else AdapterId(task_name)
        config = config or AdapterConfig.default()
        adapter_id.check()
        config.check()
        await in_thread(self._registry.require_free, adapter_id)
        files = await self._backend.initialize(config, seed)
        _raise_if_cancelled(cancel)
        base = await self._backend.base()
        return await in_thread(self._registry.create, adapter_id, config, base, files)

    @_result
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
        _check_examples(examples)
        rows = tuple(map(Row.of, examples))
        await self._backend.check(rows)
        async with self._writing[ref.adapter]:
            adapter = await self._adapter(ref.adapter)
            head = await in_thread(self._registry.version, VersionRef(adapter.id))
            start = await in_thread(self._registry.files, head)
            events = await in_thread(self._registry.journal.examples, adapter.id, examples)
            _raise_if_cancelled(cancel)
            job = TrainJob(start, adapter.config, training, rows)
            outcome = await self._backend.train(job, on_progress, cancel)
            _raise_if_cancelled(cancel)
            commit = functools.partial(
                self._registry.commit,
                parent=head.number,
                cause="trained",
                training=training,
                report=outcome.report,
                events=events,
            )
            return await in_thread(commit, adapter.id, outcome.files)

    @_result
    async def learn_from_feedback(
        self,
        prompt: Prompt,
        generation: str | Generation,
        feedback: FeedbackSignal,
        adapter_id: str | AdapterId,
        *,
        user: str | None = None,
        key: str | None = None,
        wait: bool = True,
        cancel: CancellationToken | None = None,
    ) -> Ticket:
        """Teach the adapter what somebody thinks of an answer; the ticket says what it came to.

        The judgement is journalled first. With `wait` the ticket holds the lesson and the new version;
        without, learning goes on in the background and `feedback_outcome` tells. Once journalled it will
        be learned, even if the caller is cancelled or the program killed. Giving it again under the same
        `key` changes nothing; without a key, the same words on the same answer of the same version are
        the same judgement. How much one `user` can teach in a while is limited.
        """
        adapter = await self._adapter(VersionRef.parse(adapter_id).adapter)
        answered = await self._answered(adapter, generation)
        event = judgement(prompt, generation, feedback, answered, user=user, key=key)
        event.check()
        _raise_if_cancelled(cancel)
        ticket = await self._tutor.give(adapter, event)
        if not wait:
            self._tutor.learn_later(adapter.id)
            return ticket
        await self._tutor.learn(adapter.id, cancel)
        return await self._tutor.outcome(ticket)

    @_result
    async def feedback_outcome(
        self, ticket: Ticket, *, cancel: CancellationToken | None = None
    ) -> Ticket:
        """Wait until a judgement has been learned; its ticket with lesson and version."""
        await self._tutor.learn(ticket.adapter, cancel)
        return await self._tutor.outcome(ticket)

    @_result
    async def learn_pending(
        self, adapter_id: str | AdapterId | None = None, *, cancel: CancellationToken | None = None
    ) -> list[Adapter]:
        """Learn feedback left pending by an earlier run, of one adapter or all; those that moved on."""
        moved = []
        for adapter in await self._adapters(adapter_id):
            await self._tutor.learn(adapter.id, cancel)
            now = await in_thread(self._registry.get, adapter.id)
            if now.applied > adapter.applied:
                moved.append(now)
        return moved

    @_result
    async def generate_with_adapter(
        self,
        prompt: Prompt,
        adapter_id: str | AdapterId | VersionRef | None = None,
        config: GenerationConfig | None = None,
        *,
        cancel: CancellationToken | None = None,
    ) -> Generation:
        """Answer `prompt` with an adapter's head, with one version ("tickets@3"), or with the bare base.

        An unknown adapter is an error, never a silent answer from the base.
        """
        request, version = await self._request(prompt, adapter_id, config)
        (generation,) = await self._backend.generate([request], cancel)
        return replace(generation, version=version)

    async def stream_with_adapter(
        self,
        prompt: Prompt,
        adapter_id: str | AdapterId | VersionRef | None = None,
        config: GenerationConfig | None = None,
        *,
        cancel: CancellationToken | None = None,
    ) -> AsyncIterator[Result[Delta]]:
        """As `generate_with_adapter`, piece by piece; the last piece carries the whole generation."""
        try:
            request, version = await self._request(prompt, adapter_id, config)
            async for delta in self._backend.stream(request, cancel):
                if delta.generation is not None:
                    delta = replace(delta, generation=replace(delta.generation, version=version))
                yield Ok(delta)
        except OuroborosError as error:
            yield Err(error)

    @_result
    async def evaluate_adapter(
        self,
        adapter_id: str | AdapterId | VersionRef | None,
        examples: Sequence[TrainingExample],
        *,
        cancel: CancellationToken | None = None,
    ) -> Evaluation:
        """Answer every example's input greedily and compare with its output."""
        _check_examples(examples)
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

    @_result
    async def merge_adapters(
        self,
        adapter_ids: Sequence[str | AdapterId | VersionRef],
        strategy: MergeStrategy | MergeRecipe = MergeStrategy.AVERAGE,
        *,
        name: str | AdapterId | None = None,
        rank: int | None = None,
        probes: Sequence[TrainingExample] = (),
        cancel: CancellationToken | None = None,
    ) -> MergeReport:
        """Merge adapters' heads, or single versions, into a new adapter; the parents stay as they are.

        It is called `name`, or by its parents' names joined with "+". With `probes`, examples of all
        that the parents should know, parents and result answer them, and the report says whether merging
        helped. A `WEIGHTED` merge without weights then weighs each parent by its share of right answers.
        """
        refs = [VersionRef.parse(i) for i in adapter_ids]
        recipe = strategy if isinstance(strategy, MergeRecipe) else MergeRecipe(strategy)
        weigh(recipe, [1.0] * len(refs) if probes else []).check()
        recipe.weights_for(len(refs))
        merged_id = AdapterId(str(name or "+".join(r.adapter.name for r in refs)))
        merged_id.check()
        if probes:
            _check_examples(probes)
        await in_thread(self._registry.require_free, merged_id)
        adapters = [await self._adapter(r.adapter) for r in refs]
        versions = [await in_thread(self._registry.version, r) for r in refs]
        check_distinct(versions)
        scores = {str(v.ref): await self._accuracy(v.ref, probes, cancel) for v in versions if probes}
        recipe = weigh(recipe, list(scores.values()))
        files = [await in_thread(self._registry.files, v) for v in versions]
        merged = await self._backend.merge(MergeJob(tuple(files), recipe, rank), cancel)
        _raise_if_cancelled(cancel)
        first = adapters[0].config
        config = replace(merged.config, learning_rate=first.learning_rate, max_steps=first.max_steps)
        cause = f"merged {', '.join(str(v.ref) for v in versions)} ({recipe.strategy.value})"
        base = await self._backend.base()
        await in_thread(self._registry.create, merged_id, config, base, merged.files, cause)
        own = await self._accuracy(VersionRef(merged_id), probes, cancel) if probes else 0.0
        return MergeReport(
            id=merged_id,
            rank=config.rank,
            relative_error=merged.relative_error,
            lossless_rank=merged.lossless_rank,
            accuracy={**scores, str(merged_id): own} if probes else {},
            advice=merge_advice(own, scores),
        )

    @_result
    async def import_adapter(self, name: str | AdapterId, files: AdapterFiles) -> Adapter:
        """A new adapter from the files of a PEFT folder, kept byte for byte.

        Refused unless they are sound through and through and fit this base.
        """
        adapter_id = AdapterId(str(name))
        adapter_id.check()
        await in_thread(self._registry.require_free, adapter_id)
        shape = await self._backend.validate(files)
        base = await self._backend.base()
        config = replace(shape, learning_rate=AdapterConfig.auto(base).learning_rate)
        return await in_thread(self._registry.create, adapter_id, config, base, files, "imported")

    @_result
    async def export_adapter(
        self, adapter_id: str | AdapterId | VersionRef, form: ExportForm = ExportForm.PEFT
    ) -> dict[str, bytes]:
        """A version as files, by name, for other programs."""
        ref = VersionRef.parse(adapter_id)
        await self._adapter(ref.adapter)
        version = await in_thread(self._registry.version, ref)
        return await self._backend.export(await in_thread(self._registry.files, version), form)

    @_result
    async def list_adapters(self) -> list[Adapter]:
        """All adapters, by name."""
        return await in_thread(self._registry.adapters)

    @_result
    async def get_adapter(self, adapter_id: str | AdapterId) -> Adapter:
        return await in_thread(self._registry.get, VersionRef.parse(adapter_id).adapter)

    @_result
    async def get_versions(self, adapter_id: str | AdapterId) -> list[Version]:
        """Every version of an adapter, oldest first."""
        return await in_thread(self._registry.versions, VersionRef.parse(adapter_id).adapter)

    @_result
    async def rollback_adapter(self, version: str | VersionRef, *, replay: bool = False) -> Adapter:
        """Serve one version ("tickets@3") again, older or newer; the way back is the same.

        With `replay`, feedback learned since that version is pending again and learned with the next.
        """
        ref = VersionRef.parse(version)
        async with self._writing[ref.adapter]:
            return await in_thread(self._registry.rollback, ref, replay=replay)

    @_result
    async def delete_adapter(self, adapter_id: str | AdapterId) -> None:
        """Forget an adapter and its versions. Its version numbers are never used again."""
        await in_thread(self._registry.delete, VersionRef.parse(adapter_id).adapter)

    async def _request(
        self,
        prompt: Prompt,
        adapter_id: str | AdapterId | VersionRef | None,
        config: GenerationConfig | None,
    ) -> tuple[GenerateRequest, str | None]:
        config = config or GenerationConfig()
        check_prompt("prompt", prompt)
        config.check()
        digest, version = await self._load(adapter_id)
        return GenerateRequest(prompt, config, digest), version

    async def _load(
        self, adapter_id: str | AdapterId | VersionRef | None
    ) -> tuple[str | None, str | None]:
        """See that the backend holds a version; its digest and its name. None is the base."""
        if adapter_id is None:
            return None, None
        ref = VersionRef.parse(adapter_id)
        await self._adapter(ref.adapter)
        version = await in_thread(self._registry.version, ref)
        if not await self._backend.loaded(version.digest):
            await self._backend.load(await in_thread(self._registry.files, version))
        return version.digest, str(version.ref)

    async def _accuracy(
        self,
        ref: VersionRef,
        probes: Sequence[TrainingExample],
        cancel: CancellationToken | None,
    ) -> float:
        return (await self.evaluate_adapter(ref, probes, cancel=cancel)).unwrap().accuracy

    async def _adapters(self, adapter_id: str | AdapterId | None) -> list[Adapter]:
        if adapter_id is None:
            return await in_thread(self._registry.adapters)
        return [await self._adapter(VersionRef.parse(adapter_id).adapter)]

    async def _answered(self, adapter: Adapter, generation: str | Generation) -> VersionRef:
        """The version of this adapter that gave an answer; the head if nothing says otherwise."""
        if isinstance(generation, str) or generation.version is None:
            return VersionRef(adapter.id, adapter.head)
        ref = VersionRef.parse(generation.version)
        if ref.adapter != adapter.id:
            raise InvalidExample(
                f"The answer came from {ref}, not from {adapter.id}.",
                hint=f"Give the feedback to {ref.adapter}.",
            )
        return (await in_thread(self._registry.version, ref)).ref

    async def _adapter(self, adapter_id: AdapterId) -> Adapter:
        """The adapter, if it was made for this base."""
        adapter = await in_thread(self._registry.get, adapter_id)
        base = await self._backend.base()
        base.fingerprint.require(adapter.base, f"Adapter {adapter.id.name!r}")
        return adapter


def _check_examples(examples: Sequence[TrainingExample]) -> None:
    if not examples:
        raise InvalidExample("There are no examples.", hint="Give at least one.")
    for i, example in enumerate(examples, start=1):
        try:
            example.check()
        except InvalidExample as error:
            raise InvalidExample(f"Example {i}: {error.message}", hint=error.hint) from None


def _raise_if_cancelled(cancel: CancellationToken | None) -> None:
    if cancel is not None:
        cancel.raise_if_cancelled()
