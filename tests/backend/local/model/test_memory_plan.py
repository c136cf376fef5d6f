"""What work takes of memory is predicted; what does not fit is cut, and said, or refused in numbers."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ouroboros.backend.base import GenerateRequest, TrainJob, UpdateJob
from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.model import memory_plan
from ouroboros.backend.local.model.load import BaseRuntime
from ouroboros.backend.local.model.memory_plan import SHORT_PASS_TOKENS, plan_memory
from ouroboros.backend.local.training import rows as rows_module
from ouroboros.backend.local.training import shared_gradients as pool
from ouroboros.backend.local.training.rows import plan_token_budget, tokenize_rows
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row
from ouroboros.domain.errors import OutOfMemory
from ouroboros.domain.generation import GenerationConfig
from ouroboros.lora.peft_files import unpack
from tests.backend.local.forward.test_packing import random_adapter

ROWS = tuple(Row(f"where is parcel {i}? it has not arrived", "shipping") for i in range(8))
LONG = Row("where is it? " * 12, "shipping")
ADAPTER, TRAINING = AdapterConfig(2, 1e-2), TrainingConfig(8, 2)


@pytest.fixture
def free(monkeypatch):
    """Set how much memory there is."""

    def bytes_free(count: int) -> None:
        monkeypatch.setattr(BaseRuntime, "free_bytes", property(lambda _: count))

    return bytes_free


@pytest.fixture
def passes(monkeypatch) -> list[tuple[int, bool]]:
    """How many sequences each training pass had, and whether its layers were computed again."""
    seen: list[tuple[int, bool]] = []
    plain = pool.compute_output_logits

    def record_pass(runtime, sequences, adapters, recompute, first_layer):
        seen.append((len(sequences), recompute))
        return plain(runtime, sequences, adapters, recompute=recompute, first_layer=first_layer)

    monkeypatch.setattr(pool, "compute_output_logits", record_pass)
    return seen


async def job_on(backend: LocalBackend, rows=ROWS, training=TRAINING) -> TrainJob:
    return TrainJob(await backend.initialize(ADAPTER, 0), ADAPTER, training, rows)


def test_with_memory_enough_nothing_is_cut(runtime):
    for known in (None, 1 << 50):
        plan = plan_memory(runtime.memory_costs, [(30, 30, 5)], 1000, 600, 512, known)
        assert (plan.tokens_per_pass, plan.recompute, plan.note) == (512, False, "")
        alone = plan_memory(runtime.memory_costs, [(9000, 9000, 5)], 1000, 9000, 512, known)
        assert (alone.tokens_per_pass, alone.recompute) == (512, False)
        assert alone.predicted_bytes > plan.predicted_bytes


def test_passes_become_shorter_before_layers_are_computed_twice(runtime):
    """As memory shrinks: whole passes, shorter ones, layers computed again, a row at a time, refusal."""
    rows, wanted = [(30, 30, 5), (100, 100, 5)], 2048
    whole = plan_memory(runtime.memory_costs, rows, 0, 4096, wanted, None).predicted_bytes
    seen, free = [], 2 * whole
    while True:
        try:
            plan = plan_memory(runtime.memory_costs, rows, 0, 4096, wanted, free)
        except OutOfMemory as error:
            assert "a row of 100 tokens" in error.message
            break
        assert plan.predicted_bytes <= free
        assert bool(plan.note) == (plan.tokens_per_pass < wanted or plan.recompute)
        seen.append((plan.recompute, plan.tokens_per_pass))
        free = free * 9 // 10
    assert seen[0] == (False, wanted)
    assert [recompute for recompute, _ in seen] == sorted(recompute for recompute, _ in seen)
    assert {tokens for recompute, tokens in seen if not recompute} > {wanted}
    assert min(tokens for recompute, tokens in seen if not recompute) >= SHORT_PASS_TOKENS
    assert seen[-1] == (True, 100)


def test_passes_on_a_cpu_stay_small_without_a_note(runtime, monkeypatch):
    rows = tokenize_rows(runtime, [Row("where is my parcel? " * 5, "shipping")] * 40)
    adapter = random_adapter(runtime, 1)
    everything = [range(len(rows))]
    before = plan_token_budget(runtime, adapter, rows, everything)
    costs, width = runtime.memory_costs, len(rows[0])
    pass_bytes = 100 * costs.training_token_bytes(width, recompute=False)
    monkeypatch.setattr(rows_module, "PASS_BYTES", pass_bytes)
    monkeypatch.setattr(memory_plan, "SHORT_PASS_TOKENS", 90)
    assert runtime.base.parameters * runtime.dtype.itemsize // 2 < pass_bytes
    after = plan_token_budget(runtime, adapter, rows, everything)
    assert after.tokens_per_pass == 100 < before.tokens_per_pass
    assert (after.recompute, after.note) == (False, "")
    assert costs.tokens_within(1, width) == 90


def test_an_architecture_without_own_passes_is_cut_only(tiny_folder):
    costs = LocalBackend.open(str(tiny_folder("gpt2")), dtype="float32")._runtime.memory_costs
    assert costs.recomputed is None
    whole = plan_memory(costs, [(30, 30, 5)], 0, 4096, 2048, None).predicted_bytes
    assert plan_memory(costs, [(30, 30, 5)], 0, 4096, 2048, whole).note.endswith("instead of 2,048.")
    with pytest.raises(OutOfMemory, match="of memory"):
        plan_memory(costs, [(30, 30, 5)], 0, 4096, 2048, 1000)


async def test_where_memory_is_short_layers_are_computed_again_and_that_is_said(backend, free, passes):
    job = await job_on(backend)
    whole = await backend.train(job)
    assert not any(recompute for _, recompute in passes)
    count = len(passes)
    need = plan_memory(
        backend._runtime.memory_costs, [(50, 50, 5)], 0, 200, SHORT_PASS_TOKENS, None
    ).predicted_bytes
    notes: set[str] = set()
    free(need)
    shortened = await backend.train(job, lambda p: notes.add(p.note))
    assert passes[count:]
    assert all(flag for _, flag in passes[count:])
    assert shortened.report.final_loss == pytest.approx(whole.report.final_loss, abs=1e-5)
    (note,) = notes
    assert "Memory is short" in note
    assert "computed twice" in note


def test_computing_again_changes_no_gradient(runtime):
    from ouroboros.backend.local.forward.packing import compute_output_logits
    from tests.backend.local.serving.test_continuous_batch import adapter_on

    adapter = adapter_on(runtime, 1)
    rows = [runtime.tokenizer.encode_pair(r.prompt, r.output) for r in ROWS]
    gradients = []
    for recompute in (False, True):
        with adapter.training() as grads:
            logits, _ = compute_output_logits(runtime, rows, [adapter] * len(rows), recompute=recompute)
            logits.square().mean().backward()
            gradients.append(grads.clone())
    assert gradients[0].any()
    assert torch.equal(*gradients)


async def test_a_row_that_can_never_fit_is_refused_before_anything_runs(backend, free, passes):
    job = await job_on(backend, (*ROWS, LONG))
    free(20_000)
    with pytest.raises(OutOfMemory, match=r"a row of 1\d\d tokens takes .* MiB of memory; 0.0 MiB are"):
        await backend.train(job)
    with pytest.raises(OutOfMemory, match="of memory"):
        await backend.update(UpdateJob(job.start, ADAPTER, (LONG,)))
    assert passes == []


async def test_rows_over_the_token_budget_run_alone(backend, passes, monkeypatch):
    monkeypatch.setattr(BaseRuntime, "preferred_tokens", property(lambda _: 60))
    outcome = await backend.train(await job_on(backend, (*ROWS[:2], LONG), TrainingConfig(3, 1)))
    assert outcome.report.rows == 3
    assert sum(n for n, _ in passes) == 3
    assert (1, False) in passes


async def test_a_shared_pass_that_runs_out_goes_on_one_by_one(backend, monkeypatch):
    """Whoever fits alone is trained; nobody fails for the company."""
    plain = pool.compute_output_logits

    def narrow(runtime, sequences, adapters, **how):
        if len(set(map(id, adapters))) > 1:
            raise torch.OutOfMemoryError("cannot allocate")
        return plain(runtime, sequences, adapters, **how)

    job = await job_on(backend)
    alone = await backend.train(job)
    monkeypatch.setattr(pool, "compute_output_logits", narrow)
    outcomes = await asyncio.gather(backend.train(job), backend.train(job))
    for outcome in outcomes:
        for path, low in unpack(outcome.files).weights.items():
            torch.testing.assert_close(low.a, unpack(alone.files).weights[path].a, atol=1e-5, rtol=0)


async def test_running_out_in_training_is_one_error_and_the_backend_lives(backend, monkeypatch):
    def run_out_of_memory(*arguments, **named):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    job = await job_on(backend)
    with monkeypatch.context() as patch:
        patch.setattr(pool, "compute_output_logits", run_out_of_memory)
        with pytest.raises(OutOfMemory, match="were predicted") as error:
            await backend.train(job)
    assert error.value.hint
    assert (await backend.train(job)).report.steps == 2


async def test_answers_wait_for_room_and_all_come(backend, free):
    requests = [GenerateRequest(f"parcel {i}", GenerationConfig(max_tokens=20)) for i in range(6)]
    alone = await backend.generate(requests)
    most = [0]
    forward = backend._batch._run_decode_step

    def count_rows():
        most[0] = max(most[0], len(backend._batch._active))
        return forward()

    backend._batch._run_decode_step = count_rows
    free(3 * 128 * backend._runtime.memory_costs.keys_values)
    assert [g.tokens for g in await backend.generate(requests)] == [g.tokens for g in alone]
    assert 1 <= most[0] < 6


async def test_an_answer_that_can_never_fit_fails_alone(backend, free):
    free(
        128 * backend._runtime.memory_costs.keys_values + backend._runtime.memory_costs.prefill_bytes(6)
    )
    short = GenerateRequest("parcel", GenerationConfig(max_tokens=8))
    long = GenerateRequest("parcel", GenerationConfig(max_tokens=230))
    outcomes = await asyncio.gather(
        backend.generate([short]), backend.generate([long]), return_exceptions=True
    )
    assert isinstance(outcomes[1], OutOfMemory)
    assert "MiB of memory" in outcomes[1].message
    assert not isinstance(outcomes[0], BaseException)


_MEASURE = """
import asyncio, ctypes, json, re, torch
from pathlib import Path
torch.set_num_threads(1)
from ouroboros.backend.base import TrainJob
from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.training import train
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row
from ouroboros.backend.local.training.rows import plan_token_budget

def status(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

async def main():
    backend = LocalBackend.open("starter", dtype="float32")
    plans = []
    train.plan_token_budget = lambda *a: plans.append(plan_token_budget(*a)) or plans[-1]
    adapter = AdapterConfig(8, 1e-3)
    start = await backend.initialize(adapter, 0)
    work = TrainJob(start, adapter, TrainingConfig(1, 1), (Row("a", "b"),))
    await backend.train(work)
    found = []
    for prompt, answer, rows in ((100, 4, 9), (40, 40, 9)):
        row = Row("parcel where the is " * (prompt // 4), "the " * answer)
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        await backend.train(TrainJob(start, adapter, TrainingConfig(rows, 1), (row,) * rows))
        found.append((plans[-1].predicted_bytes, status("VmHWM") - before))
    print(json.dumps(found))

asyncio.run(main())
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's own count")
def test_the_prediction_is_within_a_factor_of_two_of_what_is_measured():
    done = subprocess.run([sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for predicted, measured in json.loads(done.stdout):
        assert 0.5 < predicted / measured < 2.0, (predicted, measured)
