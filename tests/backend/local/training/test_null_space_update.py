"""The careful update: learns its rows, and keeps off what it was told to protect."""

import math

import pytest
import torch

from ouroboros.backend.base import GenerateRequest, ScoreRequest, TrainJob, UpdateJob
from ouroboros.backend.local.model.tokenizer import TokenizedPair
from ouroboros.backend.local.training.convergence import compute_target
from ouroboros.backend.local.training.null_space_update import NullSpaceProjector
from ouroboros.backend.local.training.rows import TokenizedRow
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import AdapterConfig, TrainingConfig, UpdateConfig
from ouroboros.domain.data import Prompt, Row, TrainingExample
from ouroboros.domain.errors import Cancelled, InvalidConfig, InvalidExample, TooLong
from ouroboros.domain.generation import GenerationConfig
from ouroboros.domain.losses import DPO, KTO, APOZero, Supervised
from ouroboros.learning.feedback.rehearsal import rehearsal_config, rehearsal_rate
from ouroboros.lora.peft_files import unpack

CONFIG = AdapterConfig(target_modules="all-linear")
FIX = Row("where is it?", "shipping", DPO(), rejected="no idea")


@pytest.fixture
async def start(backend):
    return await backend.initialize(CONFIG, 0)


async def total(backend, files, prompt: Prompt, output: str) -> float:
    digest = await backend.load(files)
    (score,) = await backend.score([ScoreRequest(prompt, output, digest)])
    return score.total


async def answer(backend, files, prompt: Prompt) -> str:
    request = GenerateRequest(prompt, GenerationConfig(max_tokens=12), await backend.load(files))
    return (await backend.generate([request]))[0].text


async def test_a_correction_is_said_afterwards(backend, start):
    outcome = await backend.update(UpdateJob(start, CONFIG, (FIX,)))
    assert await answer(backend, outcome.files, FIX.prompt) == "shipping"
    assert outcome.report.final_loss < outcome.report.first_loss


@pytest.mark.parametrize("loss", [APOZero(), KTO()], ids=lambda loss: loss.kind)
async def test_blame_halves_the_answers_probability_and_stops(backend, start, loss):
    row = Row("hello", None, loss, rejected="go away")
    outcome = await backend.update(UpdateJob(start, CONFIG, (row,)))
    fell = await total(backend, start, "hello", "go away") - await total(
        backend, outcome.files, "hello", "go away"
    )
    assert fell == pytest.approx(math.log(2), abs=0.01)
    assert outcome.report.advice == ""


FAST = AdapterConfig(target_modules="all-linear", learning_rate=1e-2)
SCORES = (1.0, 0.5, 0.1, 0.01)


async def train_young(backend, start, rows, known=()):
    """Apply feedback as the engine does to an adapter that knows little."""
    training = rehearsal_config(len(rows), 0, UpdateConfig())
    return await backend.train(TrainJob(start, rehearsal_rate(FAST), training, tuple(rows), known))


async def update(backend, start, rows, known=()):
    """Apply feedback as the engine does to an adapter that knows much."""
    protect = tuple(TrainingExample(row.prompt, row.output or "") for row in known)
    return await backend.update(UpdateJob(start, CONFIG, tuple(rows), protect))


@pytest.fixture
async def trained(backend, start):
    training = TrainingConfig(batch_size=2, epochs=20)
    return (await backend.train(TrainJob(start, FAST, training, KNOWN))).files


KNOWN = (Row("play some music", "media"), Row("I was charged twice", "billing"))


@pytest.mark.parametrize("apply", [train_young, update])
@pytest.mark.parametrize("age", ["start", "trained"])
@pytest.mark.parametrize("score", SCORES)
async def test_a_score_is_the_size_of_the_change(backend, start, trained, apply, age, score):
    files = {"start": start, "trained": trained}[age]
    known = KNOWN if age == "trained" else ()
    for row, sign in (
        (Row("hello", "good day", APOZero(), score), 1),
        (Row("hello", None, APOZero(), score, rejected="good day"), -1),
    ):
        outcome = await apply(backend, files, [row], known)
        change = await total(backend, outcome.files, "hello", "good day") - await total(
            backend, files, "hello", "good day"
        )
        assert change == pytest.approx(sign * math.log(2) * score, abs=min(0.005, 0.15 * score))
        assert outcome.report.advice == ""


@pytest.mark.parametrize("apply", [train_young, update])
async def test_each_score_of_a_batch_is_the_size_of_its_change(backend, trained, apply):
    """A correction beside them is learned too."""
    rows = [
        Row(f"question {i}", text, APOZero(), score)
        if i % 2
        else Row(f"question {i}", None, APOZero(), score, rejected=text)
        for i, (text, score) in enumerate(zip(("red", "green", "a cat", "blue"), SCORES, strict=True))
    ]
    outcome = await apply(backend, trained, [*rows, FIX], KNOWN)
    for row in rows:
        text, sign = row.outputs[0], 1 if row.output else -1
        change = await total(backend, outcome.files, row.prompt, text) - await total(
            backend, trained, row.prompt, text
        )
        assert change == pytest.approx(sign * math.log(2) * row.weight, abs=0.01)
    assert await answer(backend, outcome.files, FIX.prompt) == "shipping"


@pytest.mark.parametrize(
    ("before", "after"), [(-3.0, -3.0 + math.log(2)), (-0.5, 2 * math.log(0.9)), (-0.1, -0.1)]
)
def test_praise_doubles_an_answer_or_raises_its_tokens_to_nine_tenths(before, after):
    pair = TokenizedPair((1,), (2, 3))
    item = TokenizedRow(Row("hello", "hi", APOZero()), (pair,), (before,))
    assert compute_target(item) == pytest.approx(after)


async def test_a_preference_pair_gains_a_margin(backend, start):
    outcome = await backend.update(UpdateJob(start, CONFIG, (FIX,)))
    margins = [
        await total(backend, f, FIX.prompt, "shipping") - await total(backend, f, FIX.prompt, "no idea")
        for f in (start, outcome.files)
    ]
    assert margins[1] - margins[0] >= math.log(2)


async def test_what_is_learned_already_is_left_as_it_is(backend, start):
    first = await backend.update(UpdateJob(start, CONFIG, (FIX,), update=UpdateConfig(likely=0.5)))
    known = Row(FIX.prompt, "shipping", Supervised())
    job = UpdateJob(first.files, CONFIG, (known,), update=UpdateConfig(likely=0.5))
    repeated = await backend.update(job)
    if not first.report.advice:
        assert (repeated.report.steps, repeated.files) == (0, first.files)


async def test_a_protected_prompt_moves_less(backend, start):
    """An adapter that knows two things is corrected about a third."""
    known = (Row("play some music", "media"), Row("I was charged twice", "billing"))
    training = TrainingConfig(batch_size=2, epochs=40)
    rate = AdapterConfig(target_modules="all-linear", learning_rate=1e-2)
    trained = (await backend.train(TrainJob(start, rate, training, known))).files
    protect = tuple(TrainingExample(r.prompt, r.output or "") for r in known)
    drift = {}
    for name, examples in (("open", ()), ("protected", protect)):
        job = UpdateJob(trained, CONFIG, (FIX,), examples, UpdateConfig(ridge=0.01))
        files = (await backend.update(job)).files
        drift[name] = sum(
            [
                abs(
                    await total(backend, files, r.input, r.output)
                    - await total(backend, trained, r.input, r.output)
                )
                for r in protect
            ]
        )
        assert await answer(backend, files, FIX.prompt) == "shipping"
    assert drift["protected"] < drift["open"]


async def test_only_attention_moves_where_it_is_adapted(backend, start):
    before = unpack(start).weights
    after = unpack((await backend.update(UpdateJob(start, CONFIG, (FIX,)))).files).weights
    moved = {p for p, low in after.items() if not torch.equal(low.b, before[p].b)}
    assert moved
    assert all(".self_attn." in path for path in moved)
    assert all(torch.equal(after[p].a, before[p].a) for p in after if ".mlp." in p)


async def test_an_adapter_without_attention_learns_by_what_it_has(backend):
    config = AdapterConfig(target_modules="down_proj,up_proj")
    start = await backend.initialize(config, 2)  # of eight seeds, two or three get so far in 60 steps
    outcome = await backend.update(UpdateJob(start, config, (FIX,)))
    assert await answer(backend, outcome.files, FIX.prompt) == "shipping"


async def test_the_same_update_gives_the_same_bits(backend, start):
    job = UpdateJob(start, CONFIG, (FIX,), (TrainingExample("hello", "good day"),))
    first, second = await backend.update(job), await backend.update(job)
    assert first.files == second.files


async def test_an_update_that_runs_out_of_steps_says_so(backend, start):
    job = UpdateJob(start, CONFIG, (FIX,), update=UpdateConfig(max_steps=2))
    assert "1 rows were not fully learned" in (await backend.update(job)).report.advice


async def test_a_cancelled_update_returns_nothing(backend, start):
    token = CancellationToken()
    with pytest.raises(Cancelled):
        await backend.update(UpdateJob(start, CONFIG, (FIX,)), lambda _: token.cancel(), token)


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (Row("p", "word " * 2000), TooLong),
        (Row("p", None, DPO(), rejected="bad"), InvalidExample),
        (Row("p", None, rejected="bad"), InvalidExample),
        (Row("p", "good", APOZero(), rejected="bad"), InvalidExample),
        (Row("p", "good", DPO(beta=float("nan")), rejected="bad"), InvalidConfig),
    ],
)
async def test_rows_that_cannot_be_learned_are_refused(backend, start, row, error):
    with pytest.raises(error):
        await backend.check_rows([row])
    with pytest.raises(error):
        await backend.update(UpdateJob(start, CONFIG, (row,)))


def test_a_shield_takes_out_what_is_protected_and_leaves_the_rest():
    torch.manual_seed(0)
    x = torch.randn(5, 32)
    shield = NullSpaceProjector.from_inputs(x, ridge=1e-6)
    inside = torch.randn(3, 5) @ x
    assert (shield(inside) @ x.T).abs().max() < 1e-2
    a = torch.randn(3, 32)
    outside = a - a @ torch.linalg.pinv(x) @ x
    torch.testing.assert_close(shield(outside), outside, rtol=1e-3, atol=1e-4)


def test_a_shield_is_the_regularised_projection():
    torch.manual_seed(0)
    x, a, ridge = torch.randn(7, 16), torch.randn(2, 16), 0.3
    strength = ridge * float((x @ x.T).trace()) / 16
    expected = a @ torch.linalg.inv(x.T @ x + strength * torch.eye(16)) * strength
    torch.testing.assert_close(
        NullSpaceProjector.from_inputs(x, ridge)(a), expected, rtol=1e-4, atol=1e-5
    )
