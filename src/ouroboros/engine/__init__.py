"""`AdapterLearningEngine`: the verbs, each a sequence of steps of backend and registry."""

from ouroboros.engine.verbs.adapters import AdapterVerbs
from ouroboros.engine.verbs.feedback import FeedbackVerbs
from ouroboros.engine.verbs.generation import GenerationVerbs
from ouroboros.engine.verbs.maintenance import MaintenanceVerbs
from ouroboros.engine.verbs.merging import MergingVerbs
from ouroboros.engine.verbs.performance import PerformanceVerbs
from ouroboros.engine.verbs.pins import PinVerbs
from ouroboros.engine.verbs.rebuild import RebuildVerbs
from ouroboros.engine.verbs.routing import RoutingVerbs
from ouroboros.engine.verbs.training import TrainingVerbs
from ouroboros.engine.verbs.versions import VersionVerbs

__all__ = ["AdapterLearningEngine"]


class AdapterLearningEngine(
    AdapterVerbs,
    TrainingVerbs,
    GenerationVerbs,
    FeedbackVerbs,
    VersionVerbs,
    MergingVerbs,
    RebuildVerbs,
    PinVerbs,
    PerformanceVerbs,
    RoutingVerbs,
    MaintenanceVerbs,
):
    """Create, train, ask and merge adapters on one frozen base model.

    Every verb returns a `Result` and never blocks the event loop. Long verbs take a `CancellationToken`
    and honour asyncio cancellation as well: a cancelled training stops within one optimizer step and
    leaves the adapter as it was. A cancellation that arrives while the finished version is being
    committed is too late: the version exists.
    """
