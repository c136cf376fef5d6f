"""`Gatekeeper`: between a trained candidate and the head.

One pipeline for training, feedback and merging: measure the candidate against its parent on what the
adapter knows, let `learning.gate` judge, repair what can be repaired, and hand back files with their
verdict. Committing them is the caller's business.
"""

from ouroboros.engine.gate.candidate import Candidate, Judged, Sheet
from ouroboros.engine.gate.gate import Gatekeeper, refusal
from ouroboros.engine.gate.merge_gate import Compared, Comparison

__all__ = ["Candidate", "Compared", "Comparison", "Gatekeeper", "Judged", "Sheet", "refusal"]
