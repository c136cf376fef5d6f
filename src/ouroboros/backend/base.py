"""The Backend protocol: everything that touches a tensor, behind plain values.

Weights travel as `AdapterFiles` (bytes in PEFT's format) and are addressed by their digest, so a
backend may live in this process, on another machine or on many. The adapter is named in each request:
there is no active adapter anywhere.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import AdapterConfig, TrainingConfig, UpdateConfig
from ouroboros.domain.data import Continuation, Prompt, Row, TrainingExample
from ouroboros.domain.generation import Generation, GenerationConfig, TokenLogprob
from ouroboros.domain.merging import MergeRecipe
from ouroboros.domain.routing import Vector
from ouroboros.domain.training import OnProgress, TrainingReport
from ouroboros.domain.weights import AdapterFiles, ExportForm


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """When a training reports its state, and the state it resumes from.

    resume     a state that an earlier run reported; empty to start from the beginning.
    seconds    report a state with the first progress after this many seconds; None for never.
    is_wanted  report a state with the next progress while this returns true.
    """

    resume: bytes = b""
    seconds: float | None = None
    is_wanted: Callable[[], bool] | None = None


NO_CHECKPOINTS = Checkpoints()


@dataclass(frozen=True, slots=True)
class TrainJob:
    """Train `start` on `rows`; the result is new files, and `start` does not change.

    Each step also takes rows of `replay`, which the adapter knows already, and of `anchors`, on which it
    stays close to its base; `training` has their shares. None for anchors means passages that the base
    generates.
    """

    start: AdapterFiles
    adapter: AdapterConfig
    training: TrainingConfig
    rows: tuple[Row, ...]
    replay: tuple[Row, ...] = ()
    checkpoints: Checkpoints = NO_CHECKPOINTS
    anchors: tuple[Row, ...] | None = ()


@dataclass(frozen=True, slots=True)
class UpdateJob:
    """Teach `start` a few judged `rows`, and keep its answers to the examples of `protect`."""

    start: AdapterFiles
    adapter: AdapterConfig
    rows: tuple[Row, ...]
    protect: tuple[TrainingExample, ...] = ()
    update: UpdateConfig = UpdateConfig()


@dataclass(frozen=True, slots=True)
class TrainOutcome:
    """The trained files, and the report of the training."""

    files: AdapterFiles
    report: TrainingReport


@dataclass(frozen=True, slots=True)
class MergeJob:
    """Merge `parents` by `recipe`, truncated to `rank`.

    None is the lowest rank that is lossless, if its file fits into the size limit.
    """

    parents: tuple[AdapterFiles, ...]
    recipe: MergeRecipe
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class MergedAdapter:
    """The merged files and their config.

    relative_error  Frobenius norm of what the truncation lost, relative to the merged update.
    lossless_rank   the lowest rank without loss.
    """

    files: AdapterFiles
    config: AdapterConfig
    relative_error: float
    lossless_rank: int


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Answer `prompt` with the adapter of digest `adapter`, or with the bare base for None."""

    prompt: Prompt | Continuation
    config: GenerationConfig = GenerationConfig()
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Score `output` after `prompt` under the adapter of digest `adapter` (None: the base).

    With `drift`, also measure the KL of the adapter from the base on this output.
    """

    prompt: Prompt
    output: str
    adapter: str | None = None
    drift: bool = False


@dataclass(frozen=True, slots=True)
class Score:
    """The score of an output of T tokens, its end token included.

    logprobs [T]  log-probability of each.
    is_greedy     whether greedy decoding answers with exactly this output.
    drift         KL(base || adapter), mean over the tokens' positions, in nats; 0 if not requested.
    """

    logprobs: tuple[float, ...]
    is_greedy: bool
    drift: float = 0.0

    @property
    def total(self) -> float:
        """The log-probability of the whole answer, in nats."""
        return sum(self.logprobs)

    @property
    def mean(self) -> float:
        """The mean log-probability of a token of the answer, in nats."""
        return self.total / len(self.logprobs)


@dataclass(frozen=True, slots=True)
class GenerationChunk:
    """A piece of a streamed answer; the last chunk has the whole `generation`.

    `details` has the tokens since the last chunk, if the request has `top_logprobs`.
    """

    text: str
    generation: Generation | None = None
    details: tuple[TokenLogprob, ...] = ()


class Backend(Protocol):
    """What can be done with a frozen base and adapters on it.

    Methods raise errors of `domain.errors`. Cancelling the token (or the awaiting task) stops the work
    within one step; nothing is returned and nothing outside the backend has changed.
    """

    async def base(self) -> BaseModel:
        """The base model as a value."""
        ...

    async def initialize(self, config: AdapterConfig, seed: int) -> AdapterFiles:
        """Create weights for a config: A random from `seed`, B zero, so answers are the base's.

        Refuses a size over the limit before a tensor exists, and targets that match nothing.
        """
        ...

    async def load(self, files: AdapterFiles) -> str:
        """Validate `files` and keep them ready; returns their digest. Loading twice costs nothing."""
        ...

    async def is_loaded(self, digest: str) -> bool:
        """Whether requests may name this digest now."""
        ...

    async def check_rows(self, rows: Sequence[Row]) -> None:
        """Raise `TooLong`, naming the row, unless every row fits the model's context."""
        ...

    async def train(
        self,
        job: TrainJob,
        on_progress: OnProgress | None = None,
        cancel: CancellationToken | None = None,
    ) -> TrainOutcome:
        """Run one training job. `on_progress` is called after each optimizer step, from any thread."""
        ...

    async def update(
        self,
        job: UpdateJob,
        on_progress: OnProgress | None = None,
        cancel: CancellationToken | None = None,
    ) -> TrainOutcome:
        """Run one null-space update: a few steps, until the job's rows are learned."""
        ...

    async def generate(
        self, requests: Sequence[GenerateRequest], cancel: CancellationToken | None = None
    ) -> list[Generation]:
        """Answer all requests in one batch; they may name different adapters."""
        ...

    def stream(
        self, request: GenerateRequest, cancel: CancellationToken | None = None
    ) -> AsyncIterator[GenerationChunk]:
        """Answer one request; yields the answer in pieces."""
        ...

    async def score(
        self, requests: Sequence[ScoreRequest], cancel: CancellationToken | None = None
    ) -> list[Score]:
        """Score given outputs; one score per request, in order."""
        ...

    async def merge(self, job: MergeJob, cancel: CancellationToken | None = None) -> MergedAdapter:
        """Merge adapters into one. First refuses a rank whose file would exceed the size limit."""
        ...

    async def shrink(
        self, files: AdapterFiles, cancel: CancellationToken | None = None
    ) -> MergedAdapter:
        """Cut an adapter over the size limit to the largest rank whose file fits.

        Its `lossless_rank` is the rank before. Raises as `validate` does, but for the size, and
        `TooLarge` if no rank fits.
        """
        ...

    async def interpolate(self, start: AdapterFiles, end: AdapterFiles, share: float) -> AdapterFiles:
        """Interpolate between two versions of one adapter, with the same shape; `share` 1 is `end`."""
        ...

    async def measure_strength(self, files: AdapterFiles) -> float:
        """Returns the Frobenius norm of an adapter's updates relative to that of the layers it adapts.

        0 means that it answers as the base does. Raises the errors of `validate`.
        """
        ...

    async def validate(self, files: AdapterFiles) -> AdapterConfig:
        """Check that `files` are a valid adapter for this base: keys, shapes, finite values, size.

        Returns its config. Files have no learning rate, so that is the default.
        """
        ...

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Embed texts with the base: vectors of length 1, close for similar texts."""
        ...

    async def export(self, files: AdapterFiles, form: ExportForm) -> dict[str, bytes]:
        """Returns the adapter as files, by name, in a format of other programs."""
        ...

    async def close(self) -> None:
        """Release memory and threads."""
        ...


class Embedder(Protocol):
    """Embeds texts as vectors of length 1 that are close for similar texts."""

    async def name(self) -> str:
        """Returns the embedder's name; vectors of embedders with different names cannot be compared."""
        ...

    async def embed(self, texts: Sequence[str]) -> list[Vector]: ...
