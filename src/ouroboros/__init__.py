"""Ouroboros: one frozen base model, many small adapters that learn.

    from ouroboros import TrainingExample, open_sync_engine

    with open_sync_engine(store="./adapters", model="starter") as engine:
        engine.create_adapter("tickets").unwrap()
        engine.train_adapter("tickets", [TrainingExample("Where is my parcel?", "delivery")]).unwrap()
        print(engine.generate_with_adapter("It has not come yet.", "tickets").unwrap().text)

Every verb returns a `Result`: `Ok(value)` or `Err(error)`. Importing this module is quick and imports no
torch; the model is loaded by the first verb that needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ouroboros.domain.base_model import BaseModel, Fingerprint, LinearShape
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import AdapterConfig, TrainingConfig, UpdateConfig
from ouroboros.domain.data import Continuation, Message, Prompt, TrainingExample
from ouroboros.domain.errors import (
    AlreadyExists,
    BackendError,
    BaseMismatch,
    Cancelled,
    Conflict,
    InvalidAdapter,
    InvalidConfig,
    InvalidExample,
    InvalidFile,
    InvalidInput,
    InvalidName,
    MissingExtra,
    ModelError,
    NotFound,
    OuroborosError,
    OutOfMemory,
    OutputError,
    Refused,
    StoreError,
    TooLarge,
    TooLong,
    TrainingFailed,
    UnknownTarget,
)
from ouroboros.domain.events import Event, ExamplesGiven, FeedbackGiven, Pinned, Unpinned
from ouroboros.domain.feedback import FeedbackKind, FeedbackSignal
from ouroboros.domain.generation import Generation, GenerationConfig, TokenLogprob
from ouroboros.domain.merging import MergeRecipe, MergeReport, MergeSpace, MergeStrategy
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.performance import GateCounts, Performance, UsageCounts
from ouroboros.domain.records import (
    Adapter,
    Explanation,
    HeadMoved,
    Lesson,
    MergedFrom,
    Origin,
    Ticket,
    Version,
)
from ouroboros.domain.result import Err, Ok, Result
from ouroboros.domain.results import ComparedAnswers, Comparison, Erasure, Evaluation, Rebuild
from ouroboros.domain.routing import RouteMatch
from ouroboros.domain.training import Job, JobState, OnProgress, TrainingProgress, TrainingReport
from ouroboros.domain.verdict import Attempt, Change, Check, CheckName, ExampleRef, Repair, Verdict
from ouroboros.domain.weights import AdapterFiles, ExportForm

if TYPE_CHECKING:
    from ouroboros.backend.base import GenerationChunk
    from ouroboros.build import open_engine, open_sync_engine
    from ouroboros.data.examples import read_examples
    from ouroboros.data.feedback import RecordedFeedback, read_feedback
    from ouroboros.engine import AdapterLearningEngine
    from ouroboros.learning.replay.probes import Probe, ProbeKind
    from ouroboros.lora.planning import shrink_to_limit
    from ouroboros.registry.backup import BackupContents
    from ouroboros.registry.erasure import ErasureNote
    from ouroboros.registry.fsck import Damage, StoreReport
    from ouroboros.registry.journal import JournalEntry
    from ouroboros.settings import Settings
    from ouroboros.sync import SyncEngine

__all__ = [
    "Adapter",
    "AdapterConfig",
    "AdapterFiles",
    "AdapterId",
    "AdapterLearningEngine",
    "AlreadyExists",
    "Attempt",
    "BackendError",
    "BackupContents",
    "BaseMismatch",
    "BaseModel",
    "CancellationToken",
    "Cancelled",
    "Change",
    "Check",
    "CheckName",
    "ComparedAnswers",
    "Comparison",
    "Conflict",
    "Continuation",
    "Damage",
    "Erasure",
    "ErasureNote",
    "Err",
    "Evaluation",
    "Event",
    "ExampleRef",
    "ExamplesGiven",
    "Explanation",
    "ExportForm",
    "FeedbackGiven",
    "FeedbackKind",
    "FeedbackSignal",
    "Fingerprint",
    "GateCounts",
    "Generation",
    "GenerationChunk",
    "GenerationConfig",
    "HeadMoved",
    "InvalidAdapter",
    "InvalidConfig",
    "InvalidExample",
    "InvalidFile",
    "InvalidInput",
    "InvalidName",
    "Job",
    "JobState",
    "JournalEntry",
    "Lesson",
    "LinearShape",
    "MergeRecipe",
    "MergeReport",
    "MergeSpace",
    "MergeStrategy",
    "MergedFrom",
    "Message",
    "MissingExtra",
    "ModelError",
    "NotFound",
    "Ok",
    "OnProgress",
    "Origin",
    "OuroborosError",
    "OutOfMemory",
    "OutputError",
    "Performance",
    "Pinned",
    "Probe",
    "ProbeKind",
    "Prompt",
    "Rebuild",
    "RecordedFeedback",
    "Refused",
    "Repair",
    "Result",
    "RouteMatch",
    "Settings",
    "StoreError",
    "StoreReport",
    "SyncEngine",
    "Ticket",
    "TokenLogprob",
    "TooLarge",
    "TooLong",
    "TrainingConfig",
    "TrainingExample",
    "TrainingFailed",
    "TrainingProgress",
    "TrainingReport",
    "UnknownTarget",
    "Unpinned",
    "UpdateConfig",
    "UsageCounts",
    "Verdict",
    "Version",
    "VersionRef",
    "open_engine",
    "open_sync_engine",
    "read_examples",
    "read_feedback",
    "shrink_to_limit",
]

_LATER = {
    "GenerationChunk": "ouroboros.backend.base",
    "open_engine": "ouroboros.build",
    "open_sync_engine": "ouroboros.build",
    "read_examples": "ouroboros.data.examples",
    "RecordedFeedback": "ouroboros.data.feedback",
    "read_feedback": "ouroboros.data.feedback",
    "AdapterLearningEngine": "ouroboros.engine",
    "Probe": "ouroboros.learning.replay.probes",
    "ProbeKind": "ouroboros.learning.replay.probes",
    "shrink_to_limit": "ouroboros.lora.planning",
    "BackupContents": "ouroboros.registry.backup",
    "ErasureNote": "ouroboros.registry.erasure",
    "Damage": "ouroboros.registry.fsck",
    "StoreReport": "ouroboros.registry.fsck",
    "JournalEntry": "ouroboros.registry.journal",
    "Settings": "ouroboros.settings",
    "SyncEngine": "ouroboros.sync",
}
"""Names whose modules import pydantic, numpy or the stores: each is imported when it is first used."""


def __getattr__(name: str) -> object:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
