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

from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Message, TrainingExample
from ouroboros.domain.errors import OuroborosError
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.generation import Generation, GenerationConfig
from ouroboros.domain.merging import MergeRecipe, MergeReport, MergeSpace, MergeStrategy
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter, Lesson, Ticket, Version
from ouroboros.domain.result import Err, Ok, Result
from ouroboros.domain.results import Evaluation
from ouroboros.domain.training import TrainingProgress, TrainingReport
from ouroboros.domain.weights import AdapterFiles, ExportForm

if TYPE_CHECKING:
    from ouroboros.build import open_engine, open_sync_engine
    from ouroboros.engine import AdapterLearningEngine
    from ouroboros.lora.planning import shrink_to_limit
    from ouroboros.settings import Settings
    from ouroboros.sync import SyncEngine

__all__ = [
    "Adapter",
    "AdapterConfig",
    "AdapterFiles",
    "AdapterId",
    "AdapterLearningEngine",
    "CancellationToken",
    "Err",
    "Evaluation",
    "ExportForm",
    "FeedbackSignal",
    "Generation",
    "GenerationConfig",
    "Lesson",
    "MergeRecipe",
    "MergeReport",
    "MergeSpace",
    "MergeStrategy",
    "Message",
    "Ok",
    "OuroborosError",
    "Result",
    "Settings",
    "SyncEngine",
    "Ticket",
    "TrainingConfig",
    "TrainingExample",
    "TrainingProgress",
    "TrainingReport",
    "Version",
    "VersionRef",
    "open_engine",
    "open_sync_engine",
    "shrink_to_limit",
]

_LATER = {
    "AdapterLearningEngine": "ouroboros.engine",
    "Settings": "ouroboros.settings",
    "SyncEngine": "ouroboros.sync",
    "shrink_to_limit": "ouroboros.lora.planning",
    "open_engine": "ouroboros.build",
    "open_sync_engine": "ouroboros.build",
}
"""Names whose modules bring pydantic and the stores along; they are imported when first asked for."""


def __getattr__(name: str) -> object:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
