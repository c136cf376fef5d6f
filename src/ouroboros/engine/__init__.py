"""`AdapterLearningEngine`: the one place that puts backend, learning and registry in sequence."""

from ouroboros.engine.verbs.adapters import AdapterVerbs
from ouroboros.engine.verbs.feedback import FeedbackVerbs
from ouroboros.engine.verbs.maintenance import MaintenanceVerbs
from ouroboros.engine.verbs.merging import MergingVerbs
from ouroboros.engine.verbs.pins import PinVerbs
from ouroboros.engine.verbs.rebuild import RebuildVerbs

__all__ = ["AdapterLearningEngine"]


class AdapterLearningEngine(
    AdapterVerbs, FeedbackVerbs, MergingVerbs, RebuildVerbs, PinVerbs, MaintenanceVerbs
):
    """Create, train, ask and keep adapters on one frozen base model.

    Every verb returns a `Result` and never blocks the event loop. Long verbs take a `CancellationToken`
    and honour asyncio cancellation as well: a cancelled training stops within one optimizer step and
    leaves the adapter as it was. (A cancellation that comes while the finished version is being
    committed is too late: the version exists.)
    """
