"""What a table of logits says of some tokens equals what its logarithm says, and the way back too."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from ouroboros.backend.local.forward import logprobs as head
from ouroboros.backend.local.forward.logprobs import gather_logits_lse, gather_logprobs


@pytest.fixture(params=[1, 1000, 1 << 20], ids=["a row", "some rows", "all rows"], autouse=True)
def _blocks(request, monkeypatch):
    monkeypatch.setattr(head, "BLOCK_LOGITS", request.param)


@pytest.fixture
def table() -> torch.Tensor:
    return (4 * torch.randn(7, 300, generator=torch.Generator().manual_seed(0))).requires_grad_()


def test_log_probabilities_and_their_gradient(table):
    targets = torch.arange(7)
    weights = torch.linspace(-1, 2, 7)
    logprobs = gather_logprobs(table, targets)
    expected = -cross_entropy(table, targets, reduction="none")
    torch.testing.assert_close(logprobs, expected)
    ours, theirs = (torch.autograd.grad((v * weights).sum(), table)[0] for v in (logprobs, expected))
    torch.testing.assert_close(ours, theirs)


def test_sums_without_a_token_and_their_gradient(table):
    """Rows 0 to 3 leave one out; a token may be asked for twice, and be the one that is left out."""
    but = torch.tensor([5, 6, 7, 8, -1, -1, -1])
    ids = torch.tensor([[5, 5, 9]]).expand(7, 3)
    picked, norm, without = gather_logits_lse(table, ids, but)
    masked = table.clone()
    masked[range(4), but[:4]] = -torch.inf
    expected = table.gather(1, ids), table.logsumexp(1), masked.logsumexp(1)
    for a, b in zip((picked, norm, without), expected, strict=True):
        torch.testing.assert_close(a, b)
    ours, theirs = (
        torch.autograd.grad(torch.stack([(i + v).square().sum() for i, v in enumerate(of)]).sum(), table)
        for of in ((picked, norm, without), expected)
    )
    torch.testing.assert_close(ours, theirs)


def test_nobody_left_out_means_both_sums_are_one(table):
    _, norm, without = gather_logits_lse(table, torch.zeros(7, 1, dtype=torch.long))
    assert torch.equal(norm, without)
    ours, theirs = (torch.autograd.grad(v.sum(), table, retain_graph=True)[0] for v in (without, norm))
    torch.testing.assert_close(ours, theirs)


def test_a_table_in_bfloat16_is_read_in_float32(table):
    rough = table.detach().bfloat16().requires_grad_()
    logprobs = gather_logprobs(rough, torch.arange(7))
    assert logprobs.dtype == torch.float32
    expected = -cross_entropy(rough.float(), torch.arange(7), reduction="none")
    torch.testing.assert_close(logprobs, expected)
    assert torch.autograd.grad(logprobs.sum(), rough)[0].dtype == torch.bfloat16
