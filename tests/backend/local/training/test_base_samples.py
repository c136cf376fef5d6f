"""Passages that the base writes: its own, the same ones every time, and what they keep."""

from dataclasses import asdict, dataclass
from hashlib import sha256

import pytest
import torch

from ouroboros.backend.local.model.load import load_base
from ouroboros.backend.local.model.tokenizer import TokenizedPair
from ouroboros.backend.local.serving.score import ScoreItem, score_outputs
from ouroboros.backend.local.training import base_samples
from ouroboros.backend.local.training.base_samples import (
    PASSAGES,
    PROMPT_TOKENS,
    TOKENS,
    BaseSamples,
    _sample_tokens,
    generate_samples,
)
from ouroboros.backend.local.training.rows import TokenizedRow
from ouroboros.backend.local.training.shared_gradients import GradientBatcher
from ouroboros.backend.local.training.train import train
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.inject import inject
from ouroboros.lora.weights import LowRank


def finish(steps):
    """The result of work, and how many steps it took."""
    steps_taken = 0
    while True:
        try:
            next(steps)
            steps_taken += 1
        except StopIteration as end:
            return end.value, steps_taken


@pytest.fixture
def items(runtime) -> tuple[TokenizedRow, ...]:
    return finish(BaseSamples(runtime).load_or_generate())[0]


def test_a_base_writes_the_same_passages_whenever_it_is_loaded(tiny_folder, items):
    repeated, _ = finish(generate_samples(load_base(str(tiny_folder()), dtype="float32")))
    assert repeated == [item.sequences[0] for item in items]


def test_they_are_written_once(runtime):
    passages = BaseSamples(runtime)
    first, steps = finish(passages.load_or_generate())
    assert steps > TOKENS
    repeated, steps = finish(passages.load_or_generate())
    assert repeated is first
    assert steps == 0


@pytest.mark.parametrize("damage", [None, b"", b"no file of tensors"], ids=["kept", "empty", "broken"])
def test_another_program_reads_them_from_disk_and_writes_them_where_it_cannot(runtime, tmp_path, damage):
    first, _ = finish(BaseSamples(runtime, tmp_path / "kept").load_or_generate())
    (file,) = (tmp_path / "kept").iterdir()
    if damage is not None:
        file.write_bytes(damage)
    reloaded, steps = finish(BaseSamples(runtime, tmp_path / "kept").load_or_generate())
    assert (steps == 0) == (damage is None)
    assert [i.sequences for i in reloaded] == [i.sequences for i in first]
    for loaded, original in zip(reloaded, first, strict=True):
        assert torch.equal(loaded.teacher.ids, original.teacher.ids)
        assert torch.equal(loaded.teacher.logprobs, original.teacher.logprobs)
        assert torch.equal(loaded.teacher.other_logprob, original.teacher.other_logprob)


def test_bases_that_differ_keep_their_own(tiny_folder, tmp_path):
    for folder, dtype in (
        (tiny_folder(), "float32"),
        (tiny_folder(), "bfloat16"),
        (tiny_folder("qwen3"), "float32"),
    ):
        finish(BaseSamples(load_base(str(folder), dtype), tmp_path).load_or_generate())
    assert len(list(tmp_path.iterdir())) == 3


def test_a_disk_that_cannot_be_written_to_is_done_without(runtime, tmp_path):
    (tmp_path / "taken").write_text("a file")
    assert len(finish(BaseSamples(runtime, tmp_path / "taken").load_or_generate())[0]) == PASSAGES


def test_half_are_plain_text_and_half_answer_its_beginnings(runtime, items):
    codec = runtime.tokenizer
    text, answers = (
        [item.sequences[0] for item in half] for half in (items[: PASSAGES // 2], items[PASSAGES // 2 :])
    )
    assert len(text) == len(answers)
    assert len({t.prompt for t in text}) > PASSAGES / 4
    assert not {t.prompt[-1] for t in text} & set(codec.hf_tokenizer.all_special_ids)
    for passage, answer in zip(text, answers, strict=True):
        assert answer.prompt[-len(codec.invocation_tokens) :] == codec.invocation_tokens
        assert answer.prompt == codec.encode_prompt(
            codec.decode((*passage.prompt, *passage.output)[:PROMPT_TOKENS])
        )


def test_no_end_token_ends_one_and_the_context_holds_all(runtime, items):
    ends = runtime.tokenizer.end_ids
    outputs = [item.sequences[0].output for item in items]
    assert any(ends & set(output[:-1]) for output in outputs)
    assert {len(output) for output in outputs} == {TOKENS}
    assert max(len(item) for item in items) <= runtime.base.context


def test_tokens_are_drawn_as_often_as_they_are_likely():
    probs = torch.tensor([0.0, 0.7, 0.0, 0.2, 0.1, 0.0]).repeat(4000, 1)
    drawn = _sample_tokens(probs, torch.Generator().manual_seed(0)).bincount(minlength=6) / 4000
    assert drawn[[0, 2, 5]].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(drawn, probs[0], rtol=0, atol=0.03)


def test_who_trains_along_with_them_stays_near_the_base_in_other_text(runtime, items):
    text = "somewhere else it had rained for days and nobody went out any more".split()
    ids = [tuple(runtime.tokenizer.hf_tokenizer.encode(word, add_special_tokens=False)) for word in text]
    other = TokenizedPair(ids[0], tuple(i for word in ids[1:] for i in word))
    assert drift(runtime, items, other) < 0.7 * drift(runtime, (), other)


def drift(runtime, anchors, text: TokenizedPair) -> float:
    """How far a training on labels takes the model from its base in a text, in nats per token."""
    chance = torch.Generator().manual_seed(0)
    adapter = BankedAdapter(
        {
            s.path: LowRank(
                torch.randn(4, s.inputs, generator=chance) * 0.1, torch.zeros(s.outputs, 4), 2.0
            )
            for s in runtime.base.linears
        },
        runtime.dtype,
    )
    inject(runtime.model, adapter.paths, runtime.bank)
    rows = [Row(f"question {i}", ("yes", "no")[i % 2]) for i in range(8)]
    training = TrainingConfig(batch_size=8, epochs=30, anchors=0.5)
    config = AdapterConfig(learning_rate=1e-2)
    finish(train(GradientBatcher(runtime), adapter, rows, config, training, anchors=anchors))
    (score,), _ = finish(score_outputs(runtime, [ScoreItem(text, adapter, True)]))
    return score.drift


# The first release hashed the `repr` of this class, copied here as it was: its name and fields belong to
# the encoding. Do not rename them together with those of the program.


@dataclass(frozen=True)
class Fingerprint:
    config: str
    tokenizer: str
    template: str
    weights: str
    vocabulary: int


def test_the_name_of_the_file_is_the_one_that_caches_hold(runtime):
    fingerprint = Fingerprint(**asdict(runtime.base.fingerprint))
    machine = base_samples.describe_machine()
    text = repr((fingerprint, runtime.dtype, machine, runtime.device.type, 1, 64, 64, 16, 64))
    assert base_samples._cache_key(runtime) == sha256(text.encode()).hexdigest()
