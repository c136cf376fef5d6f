"""How far from its teacher an adapter is: the divergence, with the unlikely tokens counted as one."""

import torch
from torch import Tensor

from ouroboros.backend.local.training.distillation import (
    TOP_K,
    Teacher,
    _build_teacher,
    compute_logprobs_and_kl,
)


def logits(vocabulary: int, seed: int) -> Tensor:
    return 3 * torch.randn(5, vocabulary, generator=torch.Generator().manual_seed(seed))


def measure_kl(student: Tensor, teacher: Teacher) -> Tensor:
    return compute_logprobs_and_kl(student, torch.arange(5), [5], [teacher])[1]


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    p, q = teacher.log_softmax(-1), student.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def test_a_small_vocabulary_is_compared_exactly():
    teacher, student = logits(TOP_K + 1, 0), logits(TOP_K + 1, 1)
    kl = measure_kl(student, _build_teacher(teacher, None))
    torch.testing.assert_close(kl, divergence(teacher, student), rtol=1e-4, atol=1e-5)


def test_who_says_what_the_teacher_says_is_nowhere_apart():
    same = logits(1000, 2)
    torch.testing.assert_close(
        measure_kl(same, _build_teacher(same, None)), torch.zeros(5), rtol=0, atol=1e-5
    )


def test_counting_the_unlikely_as_one_never_says_too_much():
    teacher, student = logits(1000, 3), logits(1000, 4)
    kl = measure_kl(student, _build_teacher(teacher, None))
    assert (kl > 0).all()
    assert (kl <= divergence(teacher, student) + 1e-5).all()


def test_its_gradient_leads_to_the_teacher():
    teacher, student = logits(200, 5), logits(200, 6).requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.1)
    target = _build_teacher(teacher, None)
    before = float(measure_kl(student.detach(), target).sum())
    for _ in range(200):
        optimizer.zero_grad()
        measure_kl(student, target).sum().backward()
        optimizer.step()
    assert float(measure_kl(student.detach(), target).sum()) < 0.01 * before
    assert (student.argmax(-1) == teacher.argmax(-1)).all()


def test_besides_the_outputs_own_tokens_it_does_not_matter_how_likely_these_are():
    teacher = logits(1000, 7)
    output_ids = torch.arange(5)
    target = _build_teacher(teacher, output_ids)
    learned = teacher.scatter_add(1, output_ids[:, None], torch.full((5, 1), 9.0)).requires_grad_()
    divergence = measure_kl(learned, target)
    torch.testing.assert_close(divergence.detach(), torch.zeros(5), rtol=0, atol=1e-4)
    (gradient,) = torch.autograd.grad(divergence.sum(), learned)
    assert gradient.gather(1, output_ids[:, None]).abs().max() == 0
    assert gradient.isfinite().all()
    assert (measure_kl(logits(1000, 8), target) > 0).all()
