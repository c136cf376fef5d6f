"""Our losses against TRL's own code: values and gradients, on the same log-probabilities."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ouroboros.backend.local.training.losses import (
    StepBatch,
    compute_coefficients,
    compute_step_loss,
    estimate_kl,
)
from ouroboros.domain.data import Row
from ouroboros.domain.losses import DPO, KTO, APOZero, Loss

dpo_trainer = pytest.importorskip("trl.trainer.dpo_trainer")
kto_trainer = pytest.importorskip("trl.trainer.kto_trainer")

TOKENS = 5
"""Tokens of every output: TRL averages its anchor over tokens, which is ours when lengths are equal."""


class _Model:
    """What TRL asks of a model: log-probabilities that are simply given."""

    def __init__(self, logprobs: Tensor) -> None:
        self.training = True
        self._logprobs = logprobs

    def __call__(self, **_: Any) -> SimpleNamespace:
        rows, tokens = self._logprobs.shape
        fields = ("entropy", "mean_logits", "is_top1")
        blank = {name: torch.zeros(rows, tokens) for name in fields}
        blank["is_top1"] = blank["is_top1"].bool()
        return SimpleNamespace(log_probs=self._logprobs, **blank)


class _Metrics(dict):
    def __missing__(self, key: str) -> list[float]:
        return self.setdefault(key, [])


def _trainer(**settings: Any) -> SimpleNamespace:
    gather = lambda tensor: tensor  # noqa: E731
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=gather, gather_for_metrics=gather)
    return SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=accelerator,
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        _metrics={"train": _Metrics()},
        _total_train_tokens=0,
        _tp_size=1,
        **settings,
    )


def _logprobs(rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return -3 * torch.rand(rows, TOKENS, generator=generator)


def _trl_dpo(loss: DPO, logprobs: Tensor, reference: Tensor) -> Tensor:
    """`logprobs [2N, T]`: the chosen rows, then the rejected ones, as TRL lays them out."""
    trainer = _trainer(
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid", "sft"],
        loss_weights=[1.0, loss.anchor],
        beta=loss.beta,
        label_smoothing=0.0,
        use_weighting=False,
    )
    rows = len(logprobs)
    chosen, rejected = reference.chunk(2)
    batch = {
        "input_ids": torch.ones(rows, TOKENS + 1, dtype=torch.long),
        "attention_mask": torch.ones(rows, TOKENS + 1, dtype=torch.long),
        "completion_mask": torch.tensor([[0] + [1] * TOKENS] * rows),
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    return dpo_trainer.DPOTrainer._compute_loss(trainer, _Model(logprobs), batch, False)


def _trl_unpaired(
    loss: KTO | APOZero,
    logprobs: Tensor,
    reference: Tensor,
    wanted: list[bool],
    kl: tuple[Tensor, Tensor],
) -> Tensor:
    is_kto = isinstance(loss, KTO)
    trainer = _trainer(
        loss_type="kto" if is_kto else "apo_zero_unpaired",
        calculate_KL=is_kto,
        beta=loss.beta,
        desirable_weight=loss.desirable if isinstance(loss, KTO) else 1.0,
        undesirable_weight=loss.undesirable if isinstance(loss, KTO) else 1.0,
        _compute_kl_logps=lambda model, batch: kl[0],
    )
    rows = len(logprobs)
    batch = {
        "input_ids": torch.ones(rows, TOKENS + 1, dtype=torch.long),
        "attention_mask": torch.ones(rows, TOKENS + 1, dtype=torch.long),
        "completion_mask": torch.tensor([[0] + [1] * TOKENS] * rows),
        "label": torch.tensor(wanted),
        "ref_logps": reference,
        "ref_KL_logps": kl[1],
    }
    return kto_trainer.KTOTrainer._compute_loss(trainer, _Model(logprobs), batch, False)


def _ours(rows: list[Row], logprobs: Tensor, reference: Tensor, kl: float = 0.0) -> Tensor:
    """`logprobs [Q, T]` in the order of the rows' outputs."""
    sequences = len(logprobs)
    return compute_step_loss(
        StepBatch(
            rows=rows,
            coefficients=compute_coefficients(rows, [TOKENS] * len(rows)),
            logprobs=logprobs.reshape(-1),
            owner=torch.arange(sequences).repeat_interleave(TOKENS),
            reference=reference,
            kl=kl,
        )
    )


def _assert_equal(ours: Tensor, theirs: Tensor, of_ours: Tensor, of_theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs.reshape(()), rtol=1e-6, atol=1e-6)
    (mine,) = torch.autograd.grad(ours, of_ours)
    (peers,) = torch.autograd.grad(theirs, of_theirs)
    assert peers.abs().max() > 0
    torch.testing.assert_close(mine, peers, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("loss", [DPO(), DPO(beta=0.5, anchor=0.0), DPO(beta=2.0, anchor=0.3)])
@pytest.mark.parametrize("pairs", [1, 4])
def test_dpo_with_its_anchor_equals_trls(loss: DPO, pairs: int) -> None:
    logprobs = _logprobs(2 * pairs, seed=1).requires_grad_()
    reference = _logprobs(2 * pairs, seed=2).sum(1)
    order = [i for pair in zip(range(pairs), range(pairs, 2 * pairs), strict=True) for i in pair]
    rows = [Row("p", "good", loss, rejected="bad")] * pairs
    ours = _ours(rows, logprobs[order], reference[order])
    _assert_equal(ours, _trl_dpo(loss, logprobs, reference), logprobs, logprobs)


UNPAIRED: list[Loss] = [
    KTO(),
    KTO(beta=0.5, desirable=1.3, undesirable=0.7),
    APOZero(),
    APOZero(beta=1.0),
]


@pytest.mark.parametrize("loss", UNPAIRED, ids=str)
@pytest.mark.parametrize(
    "wanted", [[True, False, True], [True, True], [False, False, False, True], [False] * 2]
)
@pytest.mark.parametrize("kl_seeds", [(5, 6), (6, 5)])  # one estimate is positive, the other clamped
def test_unpaired_losses_equal_trls(
    loss: KTO | APOZero, wanted: list[bool], kl_seeds: tuple[int, int]
) -> None:
    logprobs = _logprobs(len(wanted), seed=3).requires_grad_()
    reference = _logprobs(len(wanted), seed=4).sum(1)
    policy_kl, reference_kl = (_logprobs(len(wanted), seed=s).sum(1) for s in kl_seeds)
    rows = [
        Row("p", "text" if good else None, loss, rejected=None if good else "text") for good in wanted
    ]
    ours = _ours(rows, logprobs, reference, estimate_kl(policy_kl, reference_kl))
    theirs = _trl_unpaired(loss, logprobs, reference, wanted, (policy_kl, reference_kl))
    _assert_equal(ours, theirs, logprobs, logprobs)
