"""One answer: greedy, sampled, stopped, and told piece by piece."""

import pytest
import torch

from ouroboros.backend.base import GenerationChunk
from ouroboros.backend.local.serving.continuous_batch import ActiveRequest, ContinuousBatch
from ouroboros.backend.local.serving.sequence import GeneratedSequence, TokenizedPrompt
from ouroboros.domain.errors import TooLong
from ouroboros.domain.generation import GenerationConfig

PROMPTS = ("where is my parcel?", "play", "I was charged twice for one order; what should I do?")


def ask(runtime, prompt, **config) -> TokenizedPrompt:
    return TokenizedPrompt(runtime.tokenizer.encode_prompt(prompt), GenerationConfig(**config), None)


def run(runtime, *questions):
    """The answers, and for each of them the pieces that were told."""
    batch = ContinuousBatch(runtime)
    chunks: list[list[GenerationChunk]] = [[] for _ in questions]
    requests = [
        ActiveRequest(GeneratedSequence(q, runtime.tokenizer), pieces.append)
        for q, pieces in zip(questions, chunks, strict=True)
    ]
    batch.submit(requests)
    for _ in batch.steps():
        pass
    return [a.future.result() for a in requests], chunks


def test_greedy_is_the_plain_model_s_argmax(runtime):
    (answer,), _ = run(runtime, ask(runtime, PROMPTS[0], max_tokens=6))
    ids = list(runtime.tokenizer.encode_prompt(PROMPTS[0]))
    for token, logprob in zip(answer.tokens, answer.logprobs, strict=True):
        with torch.no_grad():
            logits = runtime.model(torch.tensor([ids])).logits[0, -1]
        assert token == int(logits.argmax())
        assert logprob == pytest.approx(float(logits.log_softmax(0)[token]), abs=1e-4)
        ids.append(token)


def test_sampling_repeats_with_its_seed_and_varies_without(runtime):
    def sample(seed):
        return run(runtime, ask(runtime, PROMPTS[0], temperature=1.5, seed=seed, max_tokens=12))[0][
            0
        ].tokens

    assert sample(3) == sample(3)
    assert len({sample(seed) for seed in range(5)}) > 1


def test_a_tiny_nucleus_is_greedy(runtime):
    (greedy,), _ = run(runtime, ask(runtime, PROMPTS[0], max_tokens=8))
    (nucleus,), _ = run(
        runtime, ask(runtime, PROMPTS[0], temperature=1.0, top_p=1e-6, seed=1, max_tokens=8)
    )
    assert nucleus.tokens == greedy.tokens


def test_max_tokens_ends_an_answer(runtime):
    (answer,), _ = run(runtime, ask(runtime, PROMPTS[0], max_tokens=3))
    assert len(answer.tokens) == 3
    assert answer.finish == "length"


def test_a_stop_string_ends_the_text_before_it(runtime):
    (full,), _ = run(runtime, ask(runtime, PROMPTS[0], max_tokens=12))
    stop = full.text[2:4]
    (answer,), (pieces,) = run(runtime, ask(runtime, PROMPTS[0], max_tokens=12, stop=(stop,)))
    assert answer.text == full.text[: full.text.index(stop)]
    assert answer.finish == "stop"
    assert "".join(p.text for p in pieces) == answer.text


def test_pieces_join_to_the_text_and_hold_no_half_characters(runtime):
    (answer,), (pieces,) = run(runtime, ask(runtime, PROMPTS[0], max_tokens=20))
    assert "".join(p.text for p in pieces) == answer.text
    assert pieces[-1].generation == answer


def test_an_end_token_is_not_text(runtime):
    end = runtime.tokenizer.end_id
    bias = torch.zeros(runtime.base.fingerprint.vocabulary)
    bias[end] = 1e4
    hook = runtime.model.lm_head.register_forward_hook(lambda _, args, out: out + bias)
    try:
        (answer,), _ = run(runtime, ask(runtime, PROMPTS[0]))
    finally:
        hook.remove()
    assert (answer.text, answer.tokens, answer.finish) == ("", (end,), "stop")


def test_a_prompt_that_fills_the_context_is_refused(runtime):
    with pytest.raises(TooLong, match="context"):
        run(runtime, ask(runtime, "parcel " * 400))


def test_tokens_are_described_one_by_one_with_the_likeliest_in_their_place(runtime):
    (greedy,), pieces = run(runtime, ask(runtime, PROMPTS[0], max_tokens=8, top_logprobs=3))
    assert [d.token for d in greedy.details] == list(greedy.tokens)[: len(greedy.details)]
    assert b"".join(d.data for d in greedy.details).decode(errors="replace") == greedy.text
    for detail in greedy.details:
        assert len(detail.alternatives) == 3
        assert detail.alternatives[0].token == detail.token
        assert detail.alternatives[0].logprob == pytest.approx(detail.logprob, abs=1e-5)
        logprobs = [other.logprob for other in detail.alternatives]
        assert logprobs == sorted(logprobs, reverse=True)
    assert [d for piece in pieces[0] for d in piece.details] == list(greedy.details)


def test_tokens_cut_off_with_a_stop_string_are_not_described(runtime):
    (whole,), _ = run(runtime, ask(runtime, PROMPTS[0], max_tokens=8, top_logprobs=0))
    stop = whole.text[len(whole.text) // 2 :]
    (cut,), pieces = run(runtime, ask(runtime, PROMPTS[0], max_tokens=8, top_logprobs=0, stop=(stop,)))
    assert cut.finish == "stop"
    assert 0 < len(cut.details) < len(whole.details)
    assert [d for piece in pieces[0] for d in piece.details] == list(cut.details)


def test_nothing_is_described_unless_it_is_asked_for(runtime):
    (plain,), pieces = run(runtime, ask(runtime, PROMPTS[0], max_tokens=4))
    assert plain.details == ()
    assert not any(piece.details for piece in pieces[0])


def test_a_tiny_temperature_is_greedy(runtime):
    questions = [ask(runtime, PROMPTS[0], max_tokens=6, temperature=t) for t in (0.0, 1e-38)]
    (greedy, tiny), _ = run(runtime, *questions)
    assert tiny.tokens == greedy.tokens
