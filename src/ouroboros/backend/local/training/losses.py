"""The losses as pure functions on log-probabilities, in one table keyed by their configs.

A function gives one loss per row. What a row counts for in its optimizer step is a number known before
the forward pass (`coefficients`), so a step may be cut into any micro-batches: their losses add up.
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
class SequenceBatch:
    """Rows of one optimizer step, and what a forward pass found out about their outputs.

    The rows' outputs, in the order of `Row.outputs`, are the Q sequences.

    coefficients  of each row, from `coefficients` over the whole step.
    logprobs [L]  log-probability of each output token, differentiable, in float32.
    owner [L]     the sequence, in 0..Q-1, each token belongs to; in the processor's memory.
    reference [Q] log-probability of each sequence under the start adapter, where a loss asks.
    kl            the step's estimate of the KL to the reference (`kl_estimate`), for losses that ask.
    apart [L]     KL from the teacher's next token to ours, at each token of rows that have a teacher;
                  over all tokens but the output's own for supervised rows.
    """

    rows: Sequence[Row]
    coefficients: Sequence[float]
    logprobs: Float[Tensor, "L"]
    owner: Int[Tensor, "L"]
    reference: Float[Tensor, "Q"]
    kl: float = 0.0
    apart: Float[Tensor, "L"] | None = None


@dataclass(frozen=True)
class LossOutcome:
    """N rows that share a loss config, as a loss function sees them.

    total [N]      summed log-probability of each row's only output, or of the wanted one of a pair.
    tokens [N]     how many tokens that output has.
    reference [N]  `total` under the reference.
    wanted [N]     whether the output is wanted.
    rejected, rejected_reference [N]  the same sums for the rejected output of pairs; zero otherwise.
    token_logprobs, owner [K]         the single tokens behind `total`, and the row of each.
    apart [N]      KL from the teacher to ours, summed over those tokens; zero without a teacher.
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
    apart: Float[Tensor, "N"]
    kl: float = 0.0


LossFunction: TypeAlias = Callable[[Any, LossOutcome], Float[Tensor, "N"]]


def supervised(loss: Supervised, rows: LossOutcome) -> Float[Tensor, "N"]:
    """Cross-entropy summed over the output's tokens, and how far all else has moved there."""
    return loss.non_target_kl * rows.apart - rows.total


def dpo(loss: DPO, rows: LossOutcome) -> Float[Tensor, "N"]:
    """-log sigmoid(beta (r_wanted - r_rejected)) + anchor * NLL per token, r = log p - log p_reference.

    arXiv 2305.18290 equation 7, with the length-normalised anchor of arXiv 2404.19733.
    """
    margin = (rows.total - rows.reference) - (rows.rejected - rows.rejected_reference)
    return -logsigmoid(loss.beta * margin) - loss.anchor * rows.total / rows.tokens


def kto(loss: KTO, rows: LossOutcome) -> Float[Tensor, "N"]:
    """w_D (1 - sigmoid(beta (r - KL))) for wanted, w_U (1 - sigmoid(beta (KL - r))) for unwanted rows.

    arXiv 2402.01306 equation 8.
    """
    above = loss.beta * (rows.total - rows.reference - rows.kl)
    return torch.where(
        rows.wanted,
        loss.desirable * torch.sigmoid(-above),
        loss.undesirable * torch.sigmoid(above),
    )


def apo_zero(loss: APOZero, rows: LossOutcome) -> Float[Tensor, "N"]:
    """1 - sigmoid(beta r) for wanted rows, sigmoid(beta r) for unwanted: arXiv 2408.06266, unpaired."""
    ratio = loss.beta * (rows.total - rows.reference)
    return torch.sigmoid(torch.where(rows.wanted, -ratio, ratio))


def unlikelihood(loss: Unlikelihood, rows: LossOutcome) -> Float[Tensor, "N"]:
    """Mean over tokens of -log(1 - p), counting only what lies above its value at p = floor.

    arXiv 1908.04319, made to stop: a token at the floor has loss 0 and no gradient, so a bad answer is
    made unlikely without tearing down what shares tokens with it. Wanted rows: cross-entropy per token.
    """
    certain = rows.token_logprobs.clamp(max=-1e-6)  # log(1 - p) has no finite value at p = 1
    per_token = -torch.log(-torch.expm1(certain))
    at_floor = -torch.log1p(torch.tensor(-loss.floor))
    unlikely = _sum_by(rows.owner, (per_token - at_floor).clamp(min=0.0), len(rows.total))
    return torch.where(rows.wanted, -rows.total, unlikely) / rows.tokens


def distillation(loss: Distillation, rows: LossOutcome) -> Float[Tensor, "N"]:
    """KL(teacher || adapter), summed over the output's tokens."""
    return rows.apart


LOSSES: dict[type[Loss], LossFunction] = {
    Supervised: supervised,
    DPO: dpo,
    KTO: kto,
    APOZero: apo_zero,
    Unlikelihood: unlikelihood,
    Distillation: distillation,
}


def coefficients(rows: Sequence[Row], tokens: Sequence[int]) -> list[float]:
    """What each row of an optimizer step counts for in the step's loss; `tokens` of its first output.

    Rows with the same kind of loss are averaged: supervised ones over weighted tokens, as cross-entropy
    is, distilled ones over tokens, others over rows. Different losses in one step share it in proportion
    to their rows.
    """
    groups: dict[type[Loss], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        groups[type(row.loss)].append(i)
    found = [0.0] * len(rows)
    for members in groups.values():
        mass = sum(_mass(rows[i].loss, rows[i].weight, tokens[i]) for i in members)
        for i in members:
            found[i] = rows[i].weight / mass * len(members) / len(rows)
    return found


def _mass(loss: Loss, weight: float, tokens: int) -> float:
    """What a row adds to the number that the losses of its kind are divided by."""
    if isinstance(loss, Supervised):
        return weight * tokens
    return float(tokens) if isinstance(loss, Distillation) else 1.0


def step_loss(batch: SequenceBatch) -> Float[Tensor, ""]:
    """The part of the optimizer step's loss that these rows make up."""
    firsts = _first_sequences(batch.rows)
    parts = []
    for loss, members in _by_loss(batch.rows).items():
        losses = LOSSES[type(loss)](loss, _outcome(batch, loss, members, [firsts[i] for i in members]))
        weights = to_device(torch.tensor([batch.coefficients[i] for i in members]), losses.device)
        parts.append((losses * weights).sum())
    return torch.stack(parts).sum()


def kl_estimate(policy: Float[Tensor, "M"], reference: Float[Tensor, "M"]) -> float:
    """KL to the reference from outputs put after other rows' prompts: mean log-ratio, at least 0.

    arXiv 2402.01306 section 4.1. No gradient flows through it.
    """
    return max(float((policy.detach() - reference).mean()), 0.0)


def totals(logprobs: Float[Tensor, "L"], owner: Int[Tensor, "L"], sequences: int) -> Float[Tensor, "Q"]:
    """Summed log-probability of each sequence."""
    return _sum_by(owner, logprobs, sequences)


def _outcome(
    batch: SequenceBatch, loss: Loss, members: Sequence[int], firsts: Sequence[int]
) -> LossOutcome:
    sequences = len(batch.reference)
    device = batch.logprobs.device
    total = totals(batch.logprobs, batch.owner, sequences)
    counts = _sum_by(batch.owner, torch.ones_like(batch.logprobs), sequences)
    first = to_device(torch.tensor(firsts), device)
    second = first + 1 if loss.uses_pair else first
    pair = 1.0 if loss.uses_pair else 0.0
    row_of = torch.full((sequences,), -1)
    row_of[list(firsts)] = torch.arange(len(firsts))
    rows = row_of[batch.owner]
    apart = torch.zeros_like(batch.logprobs) if batch.apart is None else batch.apart
    return LossOutcome(
        total=total[first],
        tokens=counts[first],
        reference=batch.reference[first],
        wanted=to_device(torch.tensor([batch.rows[i].output is not None for i in members]), device),
        rejected=total[second] * pair,
        rejected_reference=batch.reference[second] * pair,
        token_logprobs=batch.logprobs[to_device((rows >= 0).nonzero()[:, 0], device)],
        owner=rows[rows >= 0],
        apart=totals(apart, batch.owner, sequences)[first],
        kl=batch.kl,
    )


def _by_loss(rows: Sequence[Row]) -> dict[Loss, list[int]]:
    groups: dict[Loss, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        groups[row.loss].append(i)
    return groups


def _first_sequences(rows: Sequence[Row]) -> list[int]:
    """The index, among all rows' outputs, of each row's first."""
    firsts, at = [], 0
    for row in rows:
        firsts.append(at)
        at += len(row.outputs)
    return firsts


def _sum_by(owner: Int[Tensor, "L"], values: Float[Tensor, "L"], n: int) -> Float[Tensor, "N"]:
    found = torch.zeros(n, device=values.device)
    return found.index_add(0, to_device(owner, values.device), values)
