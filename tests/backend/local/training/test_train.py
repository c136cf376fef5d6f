"""The training loop: exact gradients, an honest schedule, and nothing changed by a failure."""

import dataclasses

import pytest
import torch

from ouroboros.backend.local.training.shared_gradients import GradientBatcher
from ouroboros.backend.local.training.train import _advise_on_loss, schedule_rates, shuffle_rows, train
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row
from ouroboros.domain.errors import TooLong, TrainingFailed
from ouroboros.domain.training import TrainingReport
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.inject import inject
from ouroboros.lora.weights import LowRank

ROWS = (
    Row("where is my parcel?", "shipping"),
    Row("I was charged twice for one order", "billing"),
    Row("play some music", "media"),
    Row("set an alarm", "clock", weight=3.0),
    Row("please, where is it? it has not arrived and I have waited for two weeks", "shipping"),
)
CONFIG = AdapterConfig(learning_rate=1e-2)


def fresh(runtime) -> BankedAdapter:
    chance = torch.Generator().manual_seed(0)
    adapter = BankedAdapter(
        {
            s.path: LowRank(
                torch.randn(4, s.inputs, generator=chance) * 0.1, torch.zeros(s.outputs, 4), 2.0
            )
            for s in runtime.base.linears
            if s.name in ("q_proj", "v_proj")
        },
        runtime.dtype,
    )
    inject(runtime.model, adapter.paths, runtime.bank)
    return adapter


def run(runtime, adapter, rows=ROWS, config=CONFIG, **training):
    return finish(train(GradientBatcher(runtime), adapter, rows, config, TrainingConfig(**training)))


def finish(steps):
    events = []
    while True:
        try:
            event = next(steps)
        except StopIteration as end:
            return [e for e in events if e], end.value
        events.append(event)


def test_training_learns_the_rows(runtime):
    events, report = run(runtime, fresh(runtime), batch_size=5, epochs=60)
    assert report.final_loss < 0.5 * report.first_loss
    assert report.steps == len(events) == 60
    assert all(e.grad_norm > 0 for e in events)


def test_the_gradient_does_not_depend_on_packing(runtime):
    roomy, tight = fresh(runtime), fresh(runtime)
    run(runtime, roomy, batch_size=5)
    small = dataclasses.replace(runtime, base=dataclasses.replace(runtime.base, width=1))
    monkey = type("Tight", (type(small),), {"preferred_tokens": property(lambda _: 1)})
    run(monkey(small.base, small.model, small.tokenizer, small.bank), tight, batch_size=5)
    torch.testing.assert_close(roomy.master, tight.master, atol=1e-6, rtol=1e-5)


def test_the_first_step_equals_a_plain_autograd_step(runtime):
    adapter = fresh(runtime)
    start = {p: LowRank(w.a.clone(), w.b.clone(), w.scale) for p, w in adapter.weights().items()}
    run(runtime, adapter, batch_size=5, warmup=0.0, max_grad_norm=1e6)
    leaves = {p: (w.a.requires_grad_(), w.b.requires_grad_()) for p, w in start.items()}
    loss, mass = torch.zeros(()), 0.0
    for row in ROWS:
        encoded = runtime.tokenizer.encode_pair(row.prompt, row.output)
        logits = _dense_logits(runtime, leaves, encoded.prompt + encoded.output)
        picked = logits[len(encoded.prompt) - 1 : -1].log_softmax(-1)
        loss = loss - row.weight * picked.gather(1, torch.tensor(encoded.output)[:, None]).sum()
        mass += row.weight * len(encoded.output)
    tensors = [t for pair in leaves.values() for t in pair]
    optimizer = torch.optim.AdamW(tensors, lr=CONFIG.learning_rate, weight_decay=0.0)
    (loss / mass).backward()
    optimizer.step()
    for path, low in adapter.weights().items():
        torch.testing.assert_close(low.a, leaves[path][0].detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(low.b, leaves[path][1].detach(), atol=1e-5, rtol=1e-4)


def _dense_logits(runtime, leaves, ids):
    """Logits with each update added to its layer's weight, through hooks on the plain model."""
    hooks = [
        runtime.model.get_submodule(path).layer.register_forward_hook(
            lambda _, args, out, a=a, b=b: out + 2.0 * args[0] @ a.T @ b.T
        )
        for path, (a, b) in leaves.items()
    ]
    try:
        return runtime.model(torch.tensor([ids])).logits[0]
    finally:
        for hook in hooks:
            hook.remove()


def test_the_same_seed_gives_the_same_bits(runtime):
    one, two = fresh(runtime), fresh(runtime)
    run(runtime, one, batch_size=2, epochs=3, seed=5)
    run(runtime, two, batch_size=2, epochs=3, seed=5)
    assert torch.equal(one.master, two.master)


def test_another_seed_orders_the_rows_differently():
    config = TrainingConfig(batch_size=2, seed=1)
    assert list(shuffle_rows(9, config, 100)) != list(
        shuffle_rows(9, dataclasses.replace(config, seed=2), 100)
    )


def test_every_epoch_visits_every_row_once():
    steps = list(shuffle_rows(10, TrainingConfig(batch_size=4, epochs=2), 100))
    assert [len(s) for s in steps] == [4, 4, 2, 4, 4, 2]
    assert sorted(i for s in steps[:3] for i in s) == list(range(10))


def test_max_steps_is_a_limit():
    assert len(list(shuffle_rows(100, TrainingConfig(batch_size=1, epochs=5), max_steps=7))) == 7


def test_the_rate_rises_and_falls():
    rates = list(schedule_rates(20, TrainingConfig(warmup=0.1), 1.0))
    assert max(rates) == rates[2] == 1.0
    assert rates[0] < rates[1] < 1.0
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.1


def test_an_incremental_update_keeps_its_rate():
    rates = list(schedule_rates(20, TrainingConfig(incremental_update=True), 1.0))
    assert set(rates[2:]) == {1.0}


def test_a_single_step_runs_at_the_full_rate():
    assert list(schedule_rates(1, TrainingConfig(), 0.5)) == [0.5]


def test_a_row_longer_than_the_context_is_named_before_anything_runs(runtime):
    adapter = fresh(runtime)
    before = adapter.master.clone()
    with pytest.raises(TooLong, match="Row 2"):
        run(runtime, adapter, (ROWS[0], Row("word " * 300, "x")))
    assert torch.equal(adapter.master, before)


def test_a_loss_that_is_not_finite_stops_training(runtime):
    adapter = fresh(runtime)
    adapter.master.fill_(float("nan"))
    adapter.publish()
    with pytest.raises(TrainingFailed, match="step 1"):
        run(runtime, adapter)


def test_a_training_that_teaches_nothing_says_so(runtime):
    _, report = run(runtime, fresh(runtime), config=AdapterConfig(learning_rate=1e-7), epochs=2)
    assert "barely moved" in report.advice
    assert "auto" in report.advice


def test_a_training_that_diverges_says_so_and_advises_a_lower_rate():
    report = TrainingReport(rows=30, steps=40, tokens=900, first_loss=2.9, final_loss=15.9, seconds=1.0)
    assert report.diverged
    assert "lower" in _advise_on_loss(report)
    assert "higher" not in _advise_on_loss(report)


def test_a_training_until_learned_ends_before_the_first_step_that_is_not_needed(runtime):
    adapter, rows = fresh(runtime), ROWS[:2]
    config = dataclasses.replace(CONFIG, learning_rate=3e-2)
    how = {"batch_size": 2, "epochs": 200, "warmup": 0.0, "until": 0.1}
    events, report = run(runtime, adapter, rows, config, **how)
    assert 0 < report.steps == len(events) < 200
    assert report.advice == ""
    learned = adapter.master.clone()
    resumed, report = run(runtime, adapter, rows, config, **how)
    assert (report.steps, resumed) == (0, [])
    assert torch.equal(adapter.master, learned)


def test_a_training_until_learned_goes_on_until_what_is_replayed_is_known_as_well(runtime):
    config = dataclasses.replace(CONFIG, learning_rate=3e-2)
    how = {"batch_size": 1, "epochs": 200, "warmup": 0.0, "until": 0.1}
    adapter, known = fresh(runtime), ROWS[2]
    run(runtime, adapter, ROWS[:1], config, **how)
    _, report = run(runtime, adapter, ROWS[:1], config, **how)
    assert report.steps == 0  # the row itself is learned
    training = TrainingConfig(**how, replay=1.0)
    finish(train(GradientBatcher(runtime), adapter, ROWS[:1], config, training, replay=(known,)))
    _, report = run(runtime, adapter, (known,), config, **how)
    assert report.steps == 0


def test_what_is_not_learned_within_the_steps_is_said(runtime):
    _, report = run(runtime, fresh(runtime), batch_size=5, epochs=2, until=0.9)
    assert report.steps == 2
    assert report.advice.startswith("5 rows were not fully learned within 2 steps")
