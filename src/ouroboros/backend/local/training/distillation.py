"""What a teacher would say at each place of an output: its likeliest tokens, the rest as one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ouroboros.backend.local.forward.logprobs import gather_logits_lse, gather_logprobs
from ouroboros.backend.local.forward.packing import compute_output_logits
from ouroboros.backend.local.forward.prefix_reuse import count_pass_tokens, split_by_tokens
from ouroboros.backend.local.model.load import BaseRuntime
from ouroboros.backend.local.model.tokenizer import TokenizedPair
from ouroboros.backend.local.runtime.worker import Steps
from ouroboros.lora.bank import BankedAdapter

KEPT = 64
"""Tokens kept at each place; all others together are one more."""


@dataclass(frozen=True)
class Teacher:
    """The K likeliest tokens at T places, and their log-probabilities; `rest` is that of all others.

    `but` are tokens, one at each place, that are not among them, as if they could not be said.
    """

    ids: Int[Tensor, "T K"]
    logprobs: Float[Tensor, "T K"]
    rest: Float[Tensor, "T"]
    but: Int[Tensor, "T"] | None = None

    def to(self, device: torch.device) -> "Teacher":
        but = None if self.but is None else self.but.to(device)
        return Teacher(self.ids.to(device), self.logprobs.to(device), self.rest.to(device), but)


def teacher_topk(
    runtime: BaseRuntime,
    sequences: Sequence[TokenizedPair],
    adapters: Sequence[BankedAdapter | None],
    besides: Sequence[bool],
) -> Steps[Any, list[Teacher]]:
    """Ask the teachers; sequence i has adapters[i] (None: the base), and besides[i] tells whether it is
    asked for what it would say besides the output's own tokens."""
    found: list[Teacher] = []
    for run in split_by_tokens(count_pass_tokens(runtime, sequences, adapters), runtime.token_budget):
        chosen = [sequences[i] for i in run]
        with torch.no_grad():
            logits, batch = compute_output_logits(runtime, chosen, [adapters[i] for i in run])
        parts = logits.float().split([len(s.output) for s in chosen])
        own = batch.targets.split([len(s.output) for s in chosen])
        for i, part, output in zip(run, parts, own, strict=True):
            found.append(_teacher(part, output if besides[i] else None))
        yield None
    return found


def logprobs_and_kl(
    logits: Float[Tensor, "L V"],
    targets: Int[Tensor, "L"],
    lengths: Sequence[int],
    teachers: Sequence[Teacher | None],
) -> tuple[Float[Tensor, "L"], Float[Tensor, "L"]]:
    """The log-probability of each target, and how far what is said there is from what a teacher says.

    The rows belong to outputs of these lengths, one after the other, each with its teacher. How far is
    KL(teacher || model), the tokens not kept counted as one; 0 where there is no teacher.
    """
    if not any(teachers):
        said = gather_logprobs(logits, targets)
        return said, torch.zeros_like(said)
    asked = targets[:, None].repeat(1, 1 + max(t.ids.shape[1] for t in teachers if t))
    but = torch.full_like(targets, -1)
    for teacher, start, length in zip(teachers, accumulate(lengths, initial=0), lengths, strict=False):
        if teacher:
            asked[start : start + length, 1:] = teacher.ids
        if teacher and teacher.but is not None:
            but[start : start + length] = teacher.but
    besides = any(t is not None and t.but is not None for t in teachers)
    picked, norm, without = gather_logits_lse(logits, asked, but if besides else None)
    ours = (picked[:, 1:] - without[:, None]).split(list(lengths))
    away = [_teacher_kl(o, t) if t else o.new_zeros(len(o)) for o, t in zip(ours, teachers, strict=True)]
    return picked[:, 0] - norm, torch.cat(away)


def _teacher_kl(ours: Float[Tensor, "T K"], teacher: Teacher) -> Float[Tensor, "T"]:
    """From log-probabilities of the teacher's tokens."""
    kept = (teacher.logprobs.exp() * (teacher.logprobs - ours)).sum(-1)
    return kept + teacher.rest.exp() * (teacher.rest - _rest(ours))


def _teacher(logits: Float[Tensor, "T V"], but: Int[Tensor, "T"] | None) -> Teacher:
    said = _without(logits, but).log_softmax(-1)
    logprobs, ids = said.topk(min(KEPT, logits.shape[1] - 1))
    return Teacher(ids, logprobs, _rest(logprobs), but)


def _without(logits: Float[Tensor, "T V"], but: Int[Tensor, "T"] | None) -> Float[Tensor, "T V"]:
    return logits if but is None else logits.scatter(1, but[:, None], -math.inf)


def _rest(logprobs: Float[Tensor, "T K"]) -> Float[Tensor, "T"]:
    """Log-probability of everything else; never quite nothing, so that it has a logarithm."""
    return torch.log((1 - logprobs.exp().sum(-1)).clamp(min=1e-6))
