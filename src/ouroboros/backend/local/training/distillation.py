"""Distributions of a teacher over the next token: its most likely tokens, and all others as one."""

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
from ouroboros.backend.local.forward.pass_tokens import split_into_passes
from ouroboros.backend.local.model.load import BaseRuntime
from ouroboros.backend.local.model.tokenizer import TokenizedPair
from ouroboros.backend.local.runtime.worker import Steps
from ouroboros.lora.bank import BankedAdapter

TOP_K = 64
"""Most likely tokens stored at each position; all others count as one more token."""


@dataclass(frozen=True)
class Teacher:
    """The next-token distribution of a teacher at T positions.

    ids [T, K], logprobs [T, K]  the K most likely tokens, and their log-probabilities in nats.
    other_logprob [T]            log-probability of all other tokens together.
    excluded [T]                 a token at each position that has probability 0 in the distribution.
    """

    ids: Int[Tensor, "T K"]
    logprobs: Float[Tensor, "T K"]
    other_logprob: Float[Tensor, "T"]
    excluded: Int[Tensor, "T"] | None = None

    def to(self, device: torch.device) -> "Teacher":
        """Returns the same teacher with its tensors on `device`."""
        excluded = None if self.excluded is None else self.excluded.to(device)
        return Teacher(
            self.ids.to(device), self.logprobs.to(device), self.other_logprob.to(device), excluded
        )


def teacher_topk(
    runtime: BaseRuntime,
    sequences: Sequence[TokenizedPair],
    adapters: Sequence[BankedAdapter | None],
    exclude_targets: Sequence[bool],
) -> Steps[Any, list[Teacher]]:
    """Compute the teacher of each sequence's output; yields after each forward pass.

    The teacher of sequence i is adapters[i] (None: the base). With exclude_targets[i] its distributions
    leave out the output's own tokens.
    """
    teachers: list[Teacher] = []
    for run in split_into_passes(runtime, sequences, adapters):
        chosen = [sequences[i] for i in run]
        with torch.no_grad():
            logits, batch = compute_output_logits(runtime, chosen, [adapters[i] for i in run])
        parts = logits.float().split([len(s.output) for s in chosen])
        targets = batch.targets.split([len(s.output) for s in chosen])
        for i, part, output_ids in zip(run, parts, targets, strict=True):
            teachers.append(_build_teacher(part, output_ids if exclude_targets[i] else None))
        yield None
    return teachers


def compute_logprobs_and_kl(
    logits: Float[Tensor, "L V"],
    targets: Int[Tensor, "L"],
    lengths: Sequence[int],
    teachers: Sequence[Teacher | None],
) -> tuple[Float[Tensor, "L"], Float[Tensor, "L"]]:
    """Compute the log-probability of each target, and KL(teacher || model) at its position, in nats.

    The rows of `logits` belong to consecutive outputs of the given lengths, each with its teacher. In
    the KL, all tokens beyond the teacher's K count as one token. Without a teacher it is 0.
    """
    if not any(teachers):
        logprobs = gather_logprobs(logits, targets)
        return logprobs, torch.zeros_like(logprobs)
    # 1. Look up the target and the K teacher tokens of every position at once: `logits` is large.
    ids = targets[:, None].repeat(1, 1 + max(t.ids.shape[1] for t in teachers if t))
    excluded = torch.full_like(targets, -1)
    for teacher, start, length in zip(teachers, accumulate(lengths, initial=0), lengths, strict=False):
        if teacher:
            ids[start : start + length, 1:] = teacher.ids
        if teacher and teacher.excluded is not None:
            excluded[start : start + length] = teacher.excluded
    has_excluded = any(t is not None and t.excluded is not None for t in teachers)
    picked, norm, norm_without_excluded = gather_logits_lse(
        logits, ids, excluded if has_excluded else None
    )

    # 2. Normalise the student over the same tokens as the teacher, without the excluded ones.
    student_logprobs = (picked[:, 1:] - norm_without_excluded[:, None]).split(list(lengths))
    teacher_kl = [
        _compute_teacher_kl(output, teacher) if teacher else output.new_zeros(len(output))
        for output, teacher in zip(student_logprobs, teachers, strict=True)
    ]
    return picked[:, 0] - norm, torch.cat(teacher_kl)


def _compute_teacher_kl(student_logprobs: Float[Tensor, "T K"], teacher: Teacher) -> Float[Tensor, "T"]:
    """Compute KL(teacher || student) from the student's log-probabilities of the teacher's tokens."""
    top_kl = (teacher.logprobs.exp() * (teacher.logprobs - student_logprobs)).sum(-1)
    return top_kl + teacher.other_logprob.exp() * (
        teacher.other_logprob - _compute_other_logprob(student_logprobs)
    )


def _build_teacher(logits: Float[Tensor, "T V"], excluded: Int[Tensor, "T"] | None) -> Teacher:
    all_logprobs = _exclude_tokens(logits, excluded).log_softmax(-1)
    logprobs, ids = all_logprobs.topk(min(TOP_K, logits.shape[1] - 1))
    return Teacher(ids, logprobs, _compute_other_logprob(logprobs), excluded)


def _exclude_tokens(
    logits: Float[Tensor, "T V"], excluded: Int[Tensor, "T"] | None
) -> Float[Tensor, "T V"]:
    return logits if excluded is None else logits.scatter(1, excluded[:, None], -math.inf)


def _compute_other_logprob(logprobs: Float[Tensor, "T K"]) -> Float[Tensor, "T"]:
    """Compute the log-probability of all other tokens, at least log(1e-6) so that it is finite."""
    return torch.log((1 - logprobs.exp().sum(-1)).clamp(min=1e-6))
