"""`Gatekeeper`: between a trained candidate and the head.

One pipeline for training, feedback and merging: measure the candidate against its parent on what the
adapter knows, let `learning.gate` judge, repair what can be repaired, and hand back files with their
verdict. Committing them is the caller's business.
"""

from ouroboros.gatekeeper.comparison import Compared, Comparison
from ouroboros.gatekeeper.gatekeeper import Gatekeeper, refusal
from ouroboros.gatekeeper.trial import Candidate, Judged, Sheet

__all__ = ["Candidate", "Compared", "Comparison", "Gatekeeper", "Judged", "Sheet", "refusal"]
