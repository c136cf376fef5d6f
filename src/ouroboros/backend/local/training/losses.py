"""The losses as pure functions on log-probabilities, in one table keyed by their configs.

Each function returns one loss per row. The weight of a row in its optimizer step is known before the
forward pass (`compute_coefficients`), so a step may be cut into any micro-batches: their losses add up.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from ouroboros.domain.data import Row
from ouroboros.domain.losses import DPO, KTO, APOZero, Distillation, Loss, Supervised, Unlikelihood
from ouroboros.lora.transfer import to_device


@dataclass(frozen=True)
class StepBatch:
    """Rows of one optimizer step, with the results of a forward pass over them.

    The outputs of the rows, in the order of `Row.outputs`, are Q sequences of L output tokens in all.

    coefficients    weight of each row, from `compute_coefficients` over the whole step.
    logprobs [L]    log-probability of each output token, differentiable, in float32.
    owner [L]       index of each token's sequence, in 0..Q-1; on the CPU.
    reference [Q]   log-probability of each sequence under the start adapter, for losses that use it.
    kl              estimate of the KL to the reference (`estimate_kl`), for losses that use it.
    teacher_kl [L]  KL(teacher || adapter) of the next token at each token of rows that have a teacher;
                    for supervised rows, over all tokens but the output's own.
    """

    rows: Sequence[Row]
    coefficients: Sequence[float]
    logprobs: Float[Tensor, "L"]
    owner: Int[Tensor, "L"]
    reference: Float[Tensor, "Q"]
    kl: float = 0.0
    teacher_kl: Float[Tensor, "L"] | None = None


@dataclass(frozen=True)
class LossBatch:
    """The N rows of a step that share a loss config, as a loss function sees them.

    total [N]      summed log-probability of each row's only output, or of the better one of a pair.
    tokens [N]     number of tokens in that output.
    reference [N]  `total` under the reference.
    wanted [N]     whether the output is wanted.
    rejected, rejected_reference [N]  the same sums for the rejected output of pairs; else zero.
    token_logprobs, owner [K]  the single tokens behind `total`, and the row of each.
    teacher_kl [N] KL(teacher || adapter), summed over those tokens; zero without a teacher.
    kl             KL to the reference, estimated over the optimizer step.
    """

    total: Float[Tensor, "N"]
    tokens: Float[Tensor, "N"]
    reference: Float[Tensor, "N"]
    wanted: Bool[Tensor, "N"]
    rejected: Float[Tensor, "N"]
    rejected_reference: Float[Tensor, "N"]
    token_logprobs: Float[Tensor, "K"]
    owner: Int[Tensor, "K"]
    teacher_kl: Float[Tensor, "N"]
    kl: float = 0.0


LossFunction: TypeAlias = Callable[[Any, LossBatch], Float[Tensor, "N"]]


def supervised_loss(loss: Supervised, batch: LossBatch) -> Float[Tensor, "N"]:
    """Cross-entropy summed over the output's tokens, plus the weighted KL of all other tokens."""
    return loss.non_target_kl * batch.teacher_kl - batch.total


def dpo_loss(loss: DPO, batch: LossBatch) -> Float[Tensor, "N"]:
    """-log sigmoid(beta (r_wanted - r_rejected)) + anchor * NLL per token, r = log p - log p_reference.

    arXiv 2305.18290 equation 7, with the length-normalised anchor of arXiv 2404.19733.
    """
    margin = (batch.total - batch.reference) - (batch.rejected - batch.rejected_reference)
    return -logsigmoid(loss.beta * margin) - loss.anchor * batch.total / batch.tokens


def kto_loss(loss: KTO, batch: LossBatch) -> Float[Tensor, "N"]:
    """w_D (1 - sigmoid(beta (r - KL))) for wanted, w_U (1 - sigmoid(beta (KL - r))) for unwanted rows.

    arXiv 2402.01306 equation 8.
    """
    margin = loss.beta * (batch.total - batch.reference - batch.kl)
    return torch.where(
        batch.wanted,
        loss.desirable * torch.sigmoid(-margin),
        loss.undesirable * torch.sigmoid(margin),
    )


def apo_zero_loss(loss: APOZero, batch: LossBatch) -> Float[Tensor, "N"]:
    """1 - sigmoid(beta r) for wanted rows, sigmoid(beta r) for unwanted: arXiv 2408.06266, unpaired."""
    ratio = loss.beta * (batch.total - batch.reference)
    return torch.sigmoid(torch.where(batch.wanted, -ratio, ratio))


def unlikelihood_loss(loss: Unlikelihood, batch: LossBatch) -> Float[Tensor, "N"]:
    """Mean over tokens of -log(1 - p) where it exceeds its value at p = floor; the excess counts.

    arXiv 1908.04319, with a floor: a token at the floor has loss 0 and no gradient, so a bad answer
    becomes unlikely without harm to answers that share tokens with it. Wanted rows: cross-entropy per
    token.
    """
    logprobs = batch.token_logprobs.clamp(max=-1e-6)  # log(1 - p) has no finite value at p = 1
    per_token = -torch.log(-torch.expm1(logprobs))
    at_floor = -torch.log1p(torch.tensor(-loss.floor))
    penalty = _sum_by_owner(batch.owner, (per_token - at_floor).clamp(min=0.0), len(batch.total))
    return torch.where(batch.wanted, -batch.total, penalty) / batch.tokens


def distillation_loss(loss: Distillation, batch: LossBatch) -> Float[Tensor, "N"]:
    """KL(teacher || adapter), summed over the output's tokens."""
    return batch.teacher_kl


LOSSES: dict[type[Loss], LossFunction] = {
    Supervised: supervised_loss,
    DPO: dpo_loss,
    KTO: kto_loss,
    APOZero: apo_zero_loss,
    Unlikelihood: unlikelihood_loss,
    Distillation: distillation_loss,
}


def compute_coefficients(rows: Sequence[Row], tokens: Sequence[int]) -> list[float]:
    """Returns the weight of each row in the step's loss; `tokens` counts those of its first output.

    Rows with the same kind of loss are averaged: supervised ones over weighted tokens, as cross-entropy
    is, distilled ones over tokens, others over rows. Different losses in one step count in proportion to
    their numbers of rows.
    """
    groups: dict[type[Loss], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        groups[type(row.loss)].append(i)
    coefficients = [0.0] * len(rows)
    for members in groups.values():
        total_mass = sum(_row_mass(rows[i].loss, rows[i].weight, tokens[i]) for i in members)
        for i in members:
            coefficients[i] = rows[i].weight / total_mass * len(members) / len(rows)
    return coefficients


def _row_mass(loss: Loss, weight: float, tokens: int) -> float:
    """Returns what a row adds to the divisor of the losses of its kind."""
    if isinstance(loss, Supervised):
        return weight * tokens
    return float(tokens) if isinstance(loss, Distillation) else 1.0


def compute_step_loss(batch: StepBatch) -> Float[Tensor, ""]:
    """Compute the part of the step's loss that belongs to these rows: their weighted sum."""
    firsts = _first_sequence_indices(batch.rows)
    parts = []
    for loss, members in _group_by_loss(batch.rows).items():
        losses = LOSSES[type(loss)](
            loss, _gather_loss_batch(batch, loss, members, [firsts[i] for i in members])
        )
        weights = to_device(torch.tensor([batch.coefficients[i] for i in members]), losses.device)
        parts.append((losses * weights).sum())
    return torch.stack(parts).sum()


def estimate_kl(policy: Float[Tensor, "M"], reference: Float[Tensor, "M"]) -> float:
    """Estimate the KL to the reference, in nats, from M outputs that follow other rows' prompts.

    It is the mean log-ratio of the summed log-probabilities, at least 0.

    arXiv 2402.01306 section 4.1. No gradient flows through it.
    """
    return max(float((policy.detach() - reference).mean()), 0.0)


def sum_by_sequence(
    logprobs: Float[Tensor, "L"], owner: Int[Tensor, "L"], sequences: int
) -> Float[Tensor, "Q"]:
    """Sum the log-probabilities of each sequence's tokens."""
    return _sum_by_owner(owner, logprobs, sequences)


def _gather_loss_batch(
    batch: StepBatch, loss: Loss, members: Sequence[int], firsts: Sequence[int]
) -> LossBatch:
    sequences = len(batch.reference)
    device = batch.logprobs.device
    total = sum_by_sequence(batch.logprobs, batch.owner, sequences)
    counts = _sum_by_owner(batch.owner, torch.ones_like(batch.logprobs), sequences)
    first = to_device(torch.tensor(firsts), device)
    second = first + 1 if loss.uses_pair else first
    has_pair = 1.0 if loss.uses_pair else 0.0
    # Sequences of other losses in the batch have no row here: -1.
    row_of = torch.full((sequences,), -1)
    row_of[list(firsts)] = torch.arange(len(firsts))
    rows = row_of[batch.owner]
    teacher_kl = torch.zeros_like(batch.logprobs) if batch.teacher_kl is None else batch.teacher_kl
    return LossBatch(
        total=total[first],
        tokens=counts[first],
        reference=batch.reference[first],
        wanted=to_device(torch.tensor([batch.rows[i].output is not None for i in members]), device),
        rejected=total[second] * has_pair,
        rejected_reference=batch.reference[second] * has_pair,
        token_logprobs=batch.logprobs[to_device((rows >= 0).nonzero()[:, 0], device)],
        owner=rows[rows >= 0],
        teacher_kl=sum_by_sequence(teacher_kl, batch.owner, sequences)[first],
        kl=batch.kl,
    )


def _group_by_loss(rows: Sequence[Row]) -> dict[Loss, list[int]]:
    groups: dict[Loss, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        groups[row.loss].append(i)
    return groups


def _first_sequence_indices(rows: Sequence[Row]) -> list[int]:
    """Returns the index, among the outputs of all rows, of each row's first output."""
    firsts, count = [], 0
    for row in rows:
        firsts.append(count)
        count += len(row.outputs)
    return firsts


def _sum_by_owner(owner: Int[Tensor, "L"], values: Float[Tensor, "L"], n: int) -> Float[Tensor, "N"]:
    sums = torch.zeros(n, device=values.device)
    return sums.index_add(0, to_device(owner, values.device), values)
