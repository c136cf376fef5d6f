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

if TYPE_CHECKING:
    from ouroboros.backend.base import GenerationChunk
    from ouroboros.build import open_engine, open_sync_engine
    from ouroboros.data.examples import read_examples
    from ouroboros.data.feedback import RecordedFeedback, read_feedback
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
    from ouroboros.domain.weights import AdapterFiles, ExportForm, ShrunkFiles
    from ouroboros.engine import AdapterLearningEngine
    from ouroboros.learning.replay.probes import Probe, ProbeKind
    from ouroboros.lora.planning import shrink_to_limit
    from ouroboros.registry.backup import BackupContents
    from ouroboros.registry.erasure import ErasureNote, Remake
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
    "Remake",
    "Repair",
    "Result",
    "RouteMatch",
    "Settings",
    "ShrunkFiles",
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

_MODULES = {
    "GenerationChunk": "ouroboros.backend.base",
    "open_engine": "ouroboros.build",
    "open_sync_engine": "ouroboros.build",
    "read_examples": "ouroboros.data.examples",
    "read_feedback": "ouroboros.data.feedback",
    "RecordedFeedback": "ouroboros.data.feedback",
    "BaseModel": "ouroboros.domain.base_model",
    "Fingerprint": "ouroboros.domain.base_model",
    "LinearShape": "ouroboros.domain.base_model",
    "CancellationToken": "ouroboros.domain.cancel",
    "AdapterConfig": "ouroboros.domain.config",
    "TrainingConfig": "ouroboros.domain.config",
    "UpdateConfig": "ouroboros.domain.config",
    "Continuation": "ouroboros.domain.data",
    "Message": "ouroboros.domain.data",
    "Prompt": "ouroboros.domain.data",
    "TrainingExample": "ouroboros.domain.data",
    "AlreadyExists": "ouroboros.domain.errors",
    "BackendError": "ouroboros.domain.errors",
    "BaseMismatch": "ouroboros.domain.errors",
    "Cancelled": "ouroboros.domain.errors",
    "Conflict": "ouroboros.domain.errors",
    "InvalidAdapter": "ouroboros.domain.errors",
    "InvalidConfig": "ouroboros.domain.errors",
    "InvalidExample": "ouroboros.domain.errors",
    "InvalidFile": "ouroboros.domain.errors",
    "InvalidInput": "ouroboros.domain.errors",
    "InvalidName": "ouroboros.domain.errors",
    "MissingExtra": "ouroboros.domain.errors",
    "ModelError": "ouroboros.domain.errors",
    "NotFound": "ouroboros.domain.errors",
    "OuroborosError": "ouroboros.domain.errors",
    "OutOfMemory": "ouroboros.domain.errors",
    "OutputError": "ouroboros.domain.errors",
    "Refused": "ouroboros.domain.errors",
    "StoreError": "ouroboros.domain.errors",
    "TooLarge": "ouroboros.domain.errors",
    "TooLong": "ouroboros.domain.errors",
    "TrainingFailed": "ouroboros.domain.errors",
    "UnknownTarget": "ouroboros.domain.errors",
    "Event": "ouroboros.domain.events",
    "ExamplesGiven": "ouroboros.domain.events",
    "FeedbackGiven": "ouroboros.domain.events",
    "Pinned": "ouroboros.domain.events",
    "Unpinned": "ouroboros.domain.events",
    "FeedbackKind": "ouroboros.domain.feedback",
    "FeedbackSignal": "ouroboros.domain.feedback",
    "Generation": "ouroboros.domain.generation",
    "GenerationConfig": "ouroboros.domain.generation",
    "TokenLogprob": "ouroboros.domain.generation",
    "MergeRecipe": "ouroboros.domain.merging",
    "MergeReport": "ouroboros.domain.merging",
    "MergeSpace": "ouroboros.domain.merging",
    "MergeStrategy": "ouroboros.domain.merging",
    "AdapterId": "ouroboros.domain.names",
    "VersionRef": "ouroboros.domain.names",
    "GateCounts": "ouroboros.domain.performance",
    "Performance": "ouroboros.domain.performance",
    "UsageCounts": "ouroboros.domain.performance",
    "Adapter": "ouroboros.domain.records",
    "Explanation": "ouroboros.domain.records",
    "HeadMoved": "ouroboros.domain.records",
    "Lesson": "ouroboros.domain.records",
    "MergedFrom": "ouroboros.domain.records",
    "Origin": "ouroboros.domain.records",
    "Ticket": "ouroboros.domain.records",
    "Version": "ouroboros.domain.records",
    "Err": "ouroboros.domain.result",
    "Ok": "ouroboros.domain.result",
    "Result": "ouroboros.domain.result",
    "ComparedAnswers": "ouroboros.domain.results",
    "Comparison": "ouroboros.domain.results",
    "Erasure": "ouroboros.domain.results",
    "Evaluation": "ouroboros.domain.results",
    "Rebuild": "ouroboros.domain.results",
    "RouteMatch": "ouroboros.domain.routing",
    "Job": "ouroboros.domain.training",
    "JobState": "ouroboros.domain.training",
    "OnProgress": "ouroboros.domain.training",
    "TrainingProgress": "ouroboros.domain.training",
    "TrainingReport": "ouroboros.domain.training",
    "Attempt": "ouroboros.domain.verdict",
    "Change": "ouroboros.domain.verdict",
    "Check": "ouroboros.domain.verdict",
    "CheckName": "ouroboros.domain.verdict",
    "ExampleRef": "ouroboros.domain.verdict",
    "Repair": "ouroboros.domain.verdict",
    "Verdict": "ouroboros.domain.verdict",
    "AdapterFiles": "ouroboros.domain.weights",
    "ExportForm": "ouroboros.domain.weights",
    "ShrunkFiles": "ouroboros.domain.weights",
    "AdapterLearningEngine": "ouroboros.engine",
    "Probe": "ouroboros.learning.replay.probes",
    "ProbeKind": "ouroboros.learning.replay.probes",
    "shrink_to_limit": "ouroboros.lora.planning",
    "BackupContents": "ouroboros.registry.backup",
    "ErasureNote": "ouroboros.registry.erasure",
    "Remake": "ouroboros.registry.erasure",
    "Damage": "ouroboros.registry.fsck",
    "StoreReport": "ouroboros.registry.fsck",
    "JournalEntry": "ouroboros.registry.journal",
    "Settings": "ouroboros.settings",
    "SyncEngine": "ouroboros.sync",
}
"""The module of each public name: it is imported when the name is first used, so that `import ouroboros`
is fast (PEP 562)."""


def __getattr__(name: str) -> object:
    """Return a public name, imported on first use and then stored in this module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names too, imported or not, for completion in a shell."""
    return sorted({*globals(), *__all__})
