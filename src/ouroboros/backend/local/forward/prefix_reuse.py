"""Reuse of what only the base computes: prefixes of prompts, and layers below the first adapted one.

An adapter that acts on answers only leaves most of a prompt to the base, and one of the top layers all
layers below. Gradients do not reach these parts, and they are the same for all adapters: they are
computed once, without autograd, and stored in `prefix_cache`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ouroboros.backend.local.cache.prefix_cache import PrefixKV
from ouroboros.backend.local.decoder.decoder import CachedHidden, KeysValuesPerLayer
from ouroboros.backend.local.decoder.functional import FUSED_ATTENTION_TOKENS
from ouroboros.backend.local.decoder.prefix import SequenceLayout
from ouroboros.backend.local.forward.shared_prefixes import PackedSpan, TokenIds, share_prefixes
from ouroboros.backend.local.model.load import BaseRuntime
from ouroboros.backend.local.model.tokenizer import TokenizedPair
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.route import Route, Segment
from ouroboros.lora.transfer import to_device

CACHED_TOKENS_PER_RUN_TOKEN = 8
"""Cached tokens that cost a pass as much as one token that it runs."""


def select_base_prefix(sequence: TokenizedPair, adapter: BankedAdapter | None) -> TokenIds:
    """Returns the tokens that only the base reads; none if the adapter acts on the whole sequence.

    Also none for very long answers: fused attention, which they need, runs whole sequences.
    """
    first_adapted = adapter.first_adapted_token(len(sequence.prompt)) if adapter is not None else 0
    return (
        () if len(sequence) - first_adapted > FUSED_ATTENTION_TOKENS else sequence.prompt[:first_adapted]
    )


def split_into_spans(
    sequences: Sequence[TokenizedPair],
    adapters: Sequence[BankedAdapter | None],
    cached_lengths: Sequence[int],
) -> list[PackedSpan]:
    """Returns the spans that a pass over these sequences runs.

    The first cached_lengths[i] tokens of sequence i have cached keys and values and are left out.
    Sequences of one adapter, or of none, share what they begin with.
    """
    tokens = [s.prompt + s.output for s in sequences]
    shareable = [
        0 if cached else len(select_shareable(s, a))
        for s, a, cached in zip(sequences, adapters, cached_lengths, strict=True)
    ]
    return [
        replace(span, start=cached_lengths[span.sequence]) if span.start == 0 else span
        for span in share_prefixes(tokens, shareable, adapters)
    ]


def select_shareable(sequence: TokenizedPair, adapter: BankedAdapter | None) -> TokenIds:
    """Returns the tokens that a sequence may share with others: its prompt but for the last token.

    That one predicts the output's first token. A sequence that the adapter acts on only in part shares
    nothing, nor does a very long one: fused attention, which it needs, runs whole sequences.
    """
    is_uniform = adapter is None or adapter.first_adapted_token(len(sequence.prompt)) == 0
    return sequence.prompt[:-1] if is_uniform and len(sequence) <= FUSED_ATTENTION_TOKENS else ()


def get_prefixes(runtime: BaseRuntime, base_parts: Sequence[TokenIds]) -> list[PrefixKV | None]:
    """Returns keys and values of each base-only prefix, from the cache if they are there."""
    prefixes: dict[TokenIds, PrefixKV | None] = {(): None}
    for ids in base_parts:
        if ids not in prefixes:
            cached = runtime.prefix_cache.get_prefix(ids)
            prefixes[ids] = cached if cached is not None else _compute_prefix(runtime, ids)
    return [prefixes[ids] for ids in base_parts]


@torch.no_grad()
def _compute_prefix(runtime: BaseRuntime, ids: TokenIds) -> PrefixKV:
    """Compute one prefix in a pass of its own, so that its bits do not depend on other prefixes."""
    assert runtime.decoder is not None
    runtime.threads.set_for_pass(runtime.base, len(ids))
    tokens, states = torch.tensor(ids), list[tuple[Tensor, Tensor]]()
    route = Route.from_segments([Segment(None, 0, len(ids))])
    runtime.decoder.final_hidden(
        to_device(tokens, runtime.device),
        torch.arange(len(ids), device=runtime.device),
        SequenceLayout([len(ids)]),
        route,
        tokens[:0],
        keys_values=states,
    )
    (whole,) = split_keys_values(states, [PackedSpan(0, 0, len(ids))], [None])
    runtime.prefix_cache.put_prefix(ids, whole)
    return whole


def get_hidden_at_layer(
    runtime: BaseRuntime,
    sequences: Sequence[TokenizedPair],
    prefixes: Sequence[PrefixKV | None],
    spans: Sequence[PackedSpan],
    layer: int,
) -> CachedHidden:
    """Returns a layer's inputs for these spans of the sequences, cached where possible.

    Sequence i continues after the cached prefix prefixes[i].
    """
    hidden = [
        _get_sequence_hidden(runtime, s, b, layer) for s, b in zip(sequences, prefixes, strict=True)
    ]
    cached_lengths = [0 if prefix is None else prefix.shape[3] for prefix in prefixes]
    parts = []
    for span in spans:
        skipped = cached_lengths[span.sequence]
        parts.append(hidden[span.sequence][span.start - skipped : span.stop - skipped])
    return CachedHidden(layer, torch.cat(parts))


def lay_out_spans(spans: Sequence[PackedSpan], prefixes: Sequence[PrefixKV | None]) -> SequenceLayout:
    """Returns the layout of a pass's spans. Sequence i continues after the cached prefix prefixes[i]."""
    return SequenceLayout(
        list(map(len, spans)),
        [prefixes[span.sequence] for span in spans],
        [span.parent for span in spans],
    )


@torch.no_grad()
def _get_sequence_hidden(
    runtime: BaseRuntime, sequence: TokenizedPair, prefix: PrefixKV | None, layer: int
) -> Float[Tensor, "T D"]:
    """Returns one sequence's inputs of a layer, from the cache or from a pass of its own."""
    assert runtime.decoder is not None
    ids, start = sequence.prompt + sequence.output, 0 if prefix is None else prefix.shape[3]
    hidden = runtime.prefix_cache.get_hidden(ids, start, layer)
    if hidden is None:
        positions = torch.arange(start, len(ids), device=runtime.device)
        runtime.threads.set_for_pass(runtime.base, len(positions))
        tokens = to_device(torch.tensor(ids[start:]), runtime.device)
        layout = SequenceLayout([len(positions)], [prefix])
        hidden = runtime.decoder.hidden_at_layer(layer, tokens, positions, layout)
        runtime.prefix_cache.put_hidden(ids, hidden, start, layer)
    return hidden


def split_keys_values(
    states: KeysValuesPerLayer, spans: Sequence[PackedSpan], prefixes: Sequence[PrefixKV | None]
) -> list[PrefixKV]:
    """Split the keys and values of a pass by sequence, each after those of its prefixes."""
    both = torch.stack([torch.stack(layer) for layer in states]).transpose(2, 3)  # [L, 2, H, T, D]
    chains: list[list[Tensor]] = []
    for span, part in zip(spans, both.split(list(map(len, spans)), 3), strict=True):
        prefix = prefixes[span.sequence]
        before = [] if prefix is None else [prefix]
        chains.append([*(before if span.parent is None else chains[span.parent]), part])
    last_chains = {span.sequence: chain for span, chain in zip(spans, chains, strict=True)}
    return [
        torch.cat(chain, 3) if len(chain) > 1 else chain[0] for _, chain in sorted(last_chains.items())
    ]


def split_by_tokens(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yields runs of consecutive indices whose `lengths` sum to at most `budget` tokens.

    An index whose length exceeds the budget gets a run of its own.
    """
    run: list[int] = []
    total = 0
    for i, length in enumerate(lengths):
        if run and total + length > budget:
            yield run
            run, total = [], 0
        run.append(i)
        total += length
    if run:
        yield run
