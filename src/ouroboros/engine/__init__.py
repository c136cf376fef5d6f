"""`AdapterLearningEngine`: the one place that puts backend, learning and registry in sequence."""

from ouroboros.engine.verbs.adapters import Adapters
from ouroboros.engine.verbs.feedback import Feedback
from ouroboros.engine.verbs.maintenance import Upkeep
from ouroboros.engine.verbs.merging import Merging
from ouroboros.engine.verbs.pins import Retention
from ouroboros.engine.verbs.rebuild import Remaking

__all__ = ["AdapterLearningEngine"]


class AdapterLearningEngine(Adapters, Feedback, Merging, Remaking, Retention, Upkeep):
    """Create, train, ask and keep adapters on one frozen base model.

    Every verb returns a `Result` and never blocks the event loop. Long verbs take a `CancellationToken`
    and honour asyncio cancellation as well: a cancelled training stops within one optimizer step and
    leaves the adapter as it was. (A cancellation that comes while the finished version is being
    committed is too late: the version exists.)
    """
