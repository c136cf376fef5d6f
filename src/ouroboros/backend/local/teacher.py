"""What a teacher would say at each place of an output: its likeliest tokens, the rest as one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ouroboros.backend.local.forward import labelled_logits
from ouroboros.backend.local.load import FrozenModel
from ouroboros.backend.local.reading import costs, cut
from ouroboros.backend.local.tokens import Encoded
from ouroboros.backend.local.worker import Steps
from ouroboros.lora.bank import BankedAdapter

KEPT = 64
"""Tokens kept at each place; all others together are one more."""


@dataclass(frozen=True)
class Teacher:
    """The K likeliest tokens at T places, and their log-probabilities; `rest` is that of all others."""

    ids: Int[Tensor, "T K"]
    logprobs: Float[Tensor, "T K"]
    rest: Float[Tensor, "T"]


def taught(
    frozen: FrozenModel, sequences: Sequence[Encoded], adapters: Sequence[BankedAdapter | None]
) -> Steps[Any, list[Teacher]]:
    """Ask the teachers; sequence i has adapters[i] (None: the base)."""
    found: list[Teacher] = []
    for run in cut(costs(frozen, sequences, adapters), frozen.token_budget):
        chosen = [sequences[i] for i in run]
        with torch.no_grad():
            logits, _ = labelled_logits(frozen, chosen, [adapters[i] for i in run])
        found += [_teacher(part) for part in logits.split([len(s.output) for s in chosen])]
        yield None
    return found


def apart(logits: Float[Tensor, "T V"], teacher: Teacher) -> Float[Tensor, "T"]:
    """KL(teacher || model) at each place, the tokens not kept counted as one."""
    ours = logits.log_softmax(-1).gather(1, teacher.ids)
    kept = (teacher.logprobs.exp() * (teacher.logprobs - ours)).sum(-1)
    return kept + teacher.rest.exp() * (teacher.rest - _rest(ours))


def _teacher(logits: Float[Tensor, "T V"]) -> Teacher:
    logprobs, ids = logits.log_softmax(-1).topk(min(KEPT, logits.shape[1] - 1))
    return Teacher(ids, logprobs, _rest(logprobs))


def _rest(logprobs: Float[Tensor, "T K"]) -> Float[Tensor, "T"]:
    """Log-probability of everything else; never quite nothing, so that it has a logarithm."""
    return torch.log((1 - logprobs.exp().sum(-1)).clamp(min=1e-6))
