"""`PromotionGate`: between a trained candidate and the head.

One pipeline for training, feedback and merging: measure the candidate against its parent on what the
adapter knows, let `learning.gate` judge, repair what can be repaired, and commit the result with its
verdict.
"""

from ouroboros.engine.gate.candidate import Candidate, EvalResult, JudgedCandidate
from ouroboros.engine.gate.gate import PromotionGate, refusal_error
from ouroboros.engine.gate.merge_gate import JudgedMerge, MergeEvaluation

__all__ = [
    "Candidate",
    "EvalResult",
    "JudgedCandidate",
    "JudgedMerge",
    "MergeEvaluation",
    "PromotionGate",
    "refusal_error",
]
