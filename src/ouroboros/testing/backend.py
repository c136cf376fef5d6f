"""`FakeBackend`: a backend without a model, for testing the code around one."""

import asyncio
import json
import math
import re
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from ouroboros.backend.base import (
    GenerateRequest,
    GenerationChunk,
    MergedAdapter,
    MergeJob,
    Score,
    ScoreRequest,
    TrainJob,
    TrainOutcome,
    UpdateJob,
)
from ouroboros.domain.base_model import BaseModel, Fingerprint, LinearShape
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.data import Continuation, Prompt, Row, to_messages
from ouroboros.domain.errors import InvalidAdapter, NotFound, TooLong
from ouroboros.domain.generation import Generation, GenerationConfig, TokenLogprob
from ouroboros.domain.routing import Vector
from ouroboros.domain.training import OnProgress, TrainingProgress, TrainingReport
from ouroboros.domain.weights import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles, ExportForm

BASE = BaseModel(
    name="fake",
    fingerprint=Fingerprint("fake", "fake", "fake", "fake", vocabulary=256),
    architecture="none",
    width=1,
    layers=1,
    context=1000,
    parameters=0,
    linears=(LinearShape("q_proj", 1, 1), LinearShape("v_proj", 1, 1)),
)
_KNOWN_LOGPROB, _UNKNOWN_LOGPROB = math.log(0.9), math.log(0.001)
Answers = dict[str, str]


class FakeBackend:
    """Memorises its training rows: an adapter's "weights" are a JSON table of prompts and outputs.

    It answers a trained prompt with its last output, and any other prompt with the prompt itself, as it
    does without an adapter. Words are tokens. It does not generalise, and its losses mean nothing. Use
    it to test an integration (names, versions, errors, progress, cancellation), never to test learning.
    Its files are not safetensors, so other backends refuse them.

    Each training step takes `step_seconds`; cancellation is checked between steps.
    """

    def __init__(self, base: BaseModel = BASE, *, step_seconds: float = 0.0) -> None:
        self._base = base
        self._step_seconds = step_seconds
        self._loaded: dict[str, Answers] = {}

    async def base(self) -> BaseModel:
        return self._base

    async def initialize(self, config: AdapterConfig, seed: int) -> AdapterFiles:
        config.check()
        return _to_files(config.rank, {}, seed)

    async def load(self, files: AdapterFiles) -> str:
        await self.validate(files)
        self._loaded[files.digest] = _read_answers(files)
        return files.digest

    async def is_loaded(self, digest: str) -> bool:
        return digest in self._loaded

    async def check_rows(self, rows: Sequence[Row]) -> None:
        for number, row in enumerate(rows, start=1):
            longest = max(len(output.split()) for output in row.outputs)
            words = len(_prompt_text(row.prompt).split()) + longest
            if words > self._base.context:
                raise TooLong(
                    f"Row {number} has {words} tokens; the model reads {self._base.context}.",
                    hint="Shorten it, or split it up.",
                )

    async def train(
        self,
        job: TrainJob,
        on_progress: OnProgress | None = None,
        cancel: CancellationToken | None = None,
    ) -> TrainOutcome:
        steps = job.training.count_steps(len(job.rows), job.adapter.max_steps)
        return await self._memorize(job.start, job.rows, steps, on_progress, cancel)

    async def update(
        self,
        job: UpdateJob,
        on_progress: OnProgress | None = None,
        cancel: CancellationToken | None = None,
    ) -> TrainOutcome:
        return await self._memorize(job.start, job.rows, 1, on_progress, cancel)

    async def generate(
        self, requests: Sequence[GenerateRequest], cancel: CancellationToken | None = None
    ) -> list[Generation]:
        _raise_if_cancelled(cancel)
        return [
            _to_generation(r.prompt, self._answer_prompt(r.prompt, r.adapter), r.config)
            for r in requests
        ]

    async def stream(
        self, request: GenerateRequest, cancel: CancellationToken | None = None
    ) -> AsyncIterator[GenerationChunk]:
        (generation,) = await self.generate([request], cancel)
        details = generation.details
        for piece in re.findall(r"\s*\S+|\s+$", generation.text):
            _raise_if_cancelled(cancel)
            count = int(bool(generation.details))
            yield GenerationChunk(piece, details=details[:count])
            details = details[count:]
        yield GenerationChunk("", generation, details)

    async def score(
        self, requests: Sequence[ScoreRequest], cancel: CancellationToken | None = None
    ) -> list[Score]:
        _raise_if_cancelled(cancel)
        matches = [self._answer_prompt(r.prompt, r.adapter) == r.output for r in requests]
        return [
            Score(_fake_logprobs(r.output, known=known), known)
            for r, known in zip(requests, matches, strict=True)
        ]

    async def merge(self, job: MergeJob, cancel: CancellationToken | None = None) -> MergedAdapter:
        """Combine the tables of all parents; where they differ, the last parent wins."""
        job.recipe.check()
        job.recipe.resolve_weights(len(job.parents))
        _raise_if_cancelled(cancel)
        answers = {
            prompt: answer for files in job.parents for prompt, answer in _read_answers(files).items()
        }
        rank = job.rank or max(_read_rank(files) for files in job.parents)
        return MergedAdapter(_to_files(rank, answers, 0), AdapterConfig(rank=rank), 0.0, rank)

    async def shrink(
        self, files: AdapterFiles, cancel: CancellationToken | None = None
    ) -> MergedAdapter:
        """Return the files as they are: a table has no rank to cut."""
        _raise_if_cancelled(cancel)
        rank = _read_rank(files)
        return MergedAdapter(files, AdapterConfig(rank=rank), 0.0, rank)

    async def interpolate(self, start: AdapterFiles, end: AdapterFiles, share: float) -> AdapterFiles:
        """Return `end` from a share of one half on, else `start`."""
        return end if share >= 0.5 else start

    async def measure_strength(self, files: AdapterFiles) -> float:
        """Return one hundredth per memorised answer."""
        return len(_read_answers(files)) / 100

    async def validate(self, files: AdapterFiles) -> AdapterConfig:
        _read_answers(files)
        return AdapterConfig(rank=_read_rank(files))

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Hash words into 256 bins, so that texts that share words are near each other."""
        return [_bag_of_words(text) for text in texts]

    async def export(self, files: AdapterFiles, form: ExportForm) -> dict[str, bytes]:
        return {CONFIG_FILE: files.config, WEIGHTS_FILE: files.weights}

    async def close(self) -> None:
        self._loaded.clear()

    async def _memorize(
        self,
        start: AdapterFiles,
        rows: Sequence[Row],
        steps: int,
        on_progress: OnProgress | None,
        cancel: CancellationToken | None,
    ) -> TrainOutcome:
        await self.check_rows(rows)
        answers = _read_answers(start)
        words = sum(len(output.split()) for row in rows for output in row.outputs)
        for step in range(1, steps + 1):
            _raise_if_cancelled(cancel)
            await asyncio.sleep(self._step_seconds)
            if on_progress is not None:
                progress = TrainingProgress(
                    step, steps, 1 / step, 0.0, 0.0, words, step * self._step_seconds
                )
                on_progress(progress)
        _raise_if_cancelled(cancel)
        for row in rows:
            _memorize_row(answers, row)
        report = TrainingReport(len(rows), steps, words, 1.0, 1 / steps, steps * self._step_seconds)
        return TrainOutcome(_to_files(_read_rank(start), answers, 0), report)

    def _answer_prompt(self, prompt: Prompt | Continuation, adapter: str | None) -> str:
        if adapter is None:
            return _prompt_text(prompt)
        if adapter not in self._loaded:
            raise NotFound(f"No adapter {adapter[:12]} is loaded.", hint="Load its files first.")
        text = _prompt_text(prompt)
        return self._loaded[adapter].get(
            _prompt_key(text if isinstance(prompt, Continuation) else prompt), text
        )


def _memorize_row(answers: Answers, row: Row) -> None:
    key = _prompt_key(row.prompt)
    if row.output is not None:
        answers[key] = row.output
    elif answers.get(key) == row.rejected:
        del answers[key]


def _prompt_key(prompt: Prompt) -> str:
    return json.dumps([[m.role, m.content] for m in to_messages(prompt)])


def _prompt_text(prompt: Prompt | Continuation) -> str:
    if isinstance(prompt, Continuation):
        return prompt.text if isinstance(prompt.text, str) else " ".join(map(str, prompt.text))
    return to_messages(prompt)[-1].content


def _bag_of_words(text: str) -> Vector:
    bins = [0.0] * 256
    for word in re.findall(r"\w+", text.casefold()):
        bins[zlib.crc32(word.encode()) % len(bins)] += 1.0
    length = math.hypot(*bins) or 1.0
    return tuple(count / length for count in bins)


def _to_generation(prompt: Prompt | Continuation, answer: str, config: GenerationConfig) -> Generation:
    for stop in config.stop:
        answer = answer.partition(stop)[0]
    words = answer.split()
    text = answer if len(words) <= config.max_tokens else " ".join(words[: config.max_tokens])
    return Generation(
        text=text,
        tokens=tuple(range(len(text.split()))),
        logprobs=_fake_logprobs(text, known=True),
        finish="stop" if text == answer else "length",
        prompt_tokens=len(_prompt_text(prompt).split()),
        details=() if config.top_logprobs is None else _fake_details(text, config.top_logprobs),
    )


def _fake_details(text: str, alternatives: int) -> tuple[TokenLogprob, ...]:
    """Each word with the blanks before it is a token; the only alternative to it is itself."""
    tokens = [
        TokenLogprob(number, piece.encode(), _KNOWN_LOGPROB)
        for number, piece in enumerate(re.findall(r"\s*\S+|\s+$", text))
    ]
    return tuple(replace(t, alternatives=(t,)) for t in tokens) if alternatives else tuple(tokens)


def _fake_logprobs(text: str, *, known: bool) -> tuple[float, ...]:
    return (_KNOWN_LOGPROB if known else _UNKNOWN_LOGPROB,) * max(1, len(text.split()))


def _to_files(rank: int, answers: Answers, seed: int) -> AdapterFiles:
    config = {"peft_type": "FAKE", "r": rank}
    weights = {"seed": seed, "answers": answers}
    return AdapterFiles(json.dumps(config).encode(), json.dumps(weights, sort_keys=True).encode())


def _read_answers(files: AdapterFiles) -> Answers:
    try:
        return dict(json.loads(files.weights)["answers"])
    except (ValueError, KeyError, TypeError):
        raise InvalidAdapter(
            "The fake backend did not write these files.", hint="Train them with the same backend."
        ) from None


def _read_rank(files: AdapterFiles) -> int:
    return int(json.loads(files.config)["r"])


def _raise_if_cancelled(cancel: CancellationToken | None) -> None:
    if cancel is not None:
        cancel.raise_if_cancelled()
