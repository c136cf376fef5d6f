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
    """Go on from the state `resume`, if it is not empty; tell a state with the first progress after each
    `seconds`, unless that is None, and with the next one while `is_wanted` says so."""

    resume: bytes = b""
    seconds: float | None = None
    is_wanted: Callable[[], bool] | None = None


NO_CHECKPOINTS = Checkpoints()


@dataclass(frozen=True, slots=True)
class TrainJob:
    """Train `start` on `rows`; the result is new files, `start` stays as it is.

    Rows of `replay`, what the adapter knows already, and `anchors`, where it is to stay as its base,
    join each step as `training` says. With None for anchors they are passages that the base writes.
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
    """Work a few judged `rows` into `start`; leave its answers to `protect` as they are."""

    start: AdapterFiles
    adapter: AdapterConfig
    rows: tuple[Row, ...]
    protect: tuple[TrainingExample, ...] = ()
    update: UpdateConfig = UpdateConfig()


@dataclass(frozen=True, slots=True)
class TrainOutcome:
    """The trained files, and the training in numbers."""

    files: AdapterFiles
    report: TrainingReport


@dataclass(frozen=True, slots=True)
class MergeJob:
    """Merge `parents` by `recipe`, cut to `rank`; None is the least that loses nothing and fits."""

    parents: tuple[AdapterFiles, ...]
    recipe: MergeRecipe
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class MergedAdapter:
    """The merged files and their shape; what the cut in rank lost, and the rank that loses nothing."""

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
    """How likely is `output` after `prompt`, under the adapter of digest `adapter` (None: the base)?

    With `drift`, how far the adapter is from the base there is asked too.
    """

    prompt: Prompt
    output: str
    adapter: str | None = None
    drift: bool = False


@dataclass(frozen=True, slots=True)
class Score:
    """An output token by token, its end token included: T tokens.

    logprobs [T]  log-probability of each.
    said          whether greedy decoding answers with exactly this output.
    drift         KL(base || adapter), mean over the tokens' positions, in nats; 0 if it was not asked.
    """

    logprobs: tuple[float, ...]
    is_greedy: bool
    drift: float = 0.0

    @property
    def total(self) -> float:
        return sum(self.logprobs)

    @property
    def mean(self) -> float:
        return self.total / len(self.logprobs)


@dataclass(frozen=True, slots=True)
class GenerationChunk:
    """A piece of a streamed answer; the last chunk carries the whole `generation`.

    `details` has the tokens since the chunk before, if the request asked for `top_logprobs`.
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
        """Fresh weights of this shape: A random from `seed`, B zero, so that the base is unchanged.

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
        """Run one careful update: a few steps, until the job's rows are learned."""
        ...

    async def generate(
        self, requests: Sequence[GenerateRequest], cancel: CancellationToken | None = None
    ) -> list[Generation]:
        """Answer all requests, whichever adapters they name, in one batch."""
        ...

    def stream(
        self, request: GenerateRequest, cancel: CancellationToken | None = None
    ) -> AsyncIterator[GenerationChunk]:
        """Answer one request piece by piece."""
        ...

    async def score(
        self, requests: Sequence[ScoreRequest], cancel: CancellationToken | None = None
    ) -> list[Score]:
        """Log-probabilities of given outputs."""
        ...

    async def merge(self, job: MergeJob, cancel: CancellationToken | None = None) -> MergedAdapter:
        """Merge adapters into one; a rank whose file would exceed the size limit is refused first."""
        ...

    async def interpolate(self, start: AdapterFiles, end: AdapterFiles, share: float) -> AdapterFiles:
        """The point at `share` of the way from one adapter to another of the same line and shape."""
        ...

    async def measure_strength(self, files: AdapterFiles) -> float:
        """How far an adapter moves its base: norm of all its updates over that of the layers it adapts.

        0 for one that answers as the base does. Raises as `validate` does.
        """
        ...

    async def validate(self, files: AdapterFiles) -> AdapterConfig:
        """Raise unless `files` are a sound adapter for this base: keys, shapes, finite values, size.

        Returns its shape; its learning rate, which files do not tell, is the default's.
        """
        ...

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """What each text is about, as the base sees it: vectors of length 1, near for like texts."""
        ...

    async def export(self, files: AdapterFiles, form: ExportForm) -> dict[str, bytes]:
        """The adapter as files, by name, that other programs read."""
        ...

    async def close(self) -> None:
        """Release memory and threads."""
        ...


class Embedder(Protocol):
    """Turns texts into vectors of length 1 that are near for like texts."""

    async def name(self) -> str:
        """Which one it is: vectors of embedders of different names cannot be compared."""
        ...

    async def embed(self, texts: Sequence[str]) -> list[Vector]: ...
