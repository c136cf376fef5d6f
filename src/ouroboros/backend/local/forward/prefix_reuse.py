"""What the base reads by itself, before anything else runs.

Adapters that act on answers only leave most of a prompt to it, and those of the top layers everything
below. No gradient goes there, and what comes out is the same for all of them: it is read once, without
autograd, and kept in `prefix_cache`.
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
"""Tokens read before that cost a pass as much as one that it runs."""


def base_only_prefix(sequence: TokenizedPair, adapter: BankedAdapter | None) -> TokenIds:
    """What the base reads of a sequence by itself; nothing where the adapter acts on all of it.

    Very long answers are run with their prompts: attention there keeps no weights.
    """
    acts = adapter.first_adapted_token(len(sequence.prompt)) if adapter is not None else 0
    return () if len(sequence) - acts > FUSED_ATTENTION_TOKENS else sequence.prompt[:acts]


def split_into_spans(
    sequences: Sequence[TokenizedPair], adapters: Sequence[BankedAdapter | None], cached: Sequence[int]
) -> list[PackedSpan]:
    """The spans of a pass over these sequences, behind the cached[i] first tokens of sequence i.

    Sequences share what they begin with, if one adapter acts on all of it or none does. At least the
    last token of a prompt, which predicts the output's first one, stays with its sequence.
    """
    tokens = [s.prompt + s.output for s in sequences]
    beginnings = [
        shareable_length(s, a) if not n else 0
        for s, a, n in zip(sequences, adapters, cached, strict=True)
    ]
    spans = share_prefixes(tokens, beginnings, adapters)
    return [
        replace(s, start=cached[s.sequence]) if s.start == 0 and cached[s.sequence] else s for s in spans
    ]


def shareable_length(sequence: TokenizedPair, adapter: BankedAdapter | None) -> int:
    """How many tokens of a sequence may be shared. None of a very long one: a mask of its own would
    make attention save its weights."""
    prompt = len(sequence.prompt)
    is_uniform = adapter is None or adapter.first_adapted_token(prompt) == 0
    return prompt - 1 if is_uniform and len(sequence) <= FUSED_ATTENTION_TOKENS else 0


def count_pass_tokens(
    runtime: BaseRuntime, sequences: Sequence[TokenizedPair], adapters: Sequence[BankedAdapter | None]
) -> list[int]:
    """Tokens that a pass has to run for each sequence; those that the base reads before count little.

    It does not matter whether they are kept at the moment: who shares a pass decides the last bits.
    """
    counts = []
    for sequence, adapter in zip(sequences, adapters, strict=True):
        prefix_length = len(base_only_prefix(sequence, adapter)) if runtime.decoder is not None else 0
        counts.append(len(sequence) - prefix_length + prefix_length // CACHED_TOKENS_PER_RUN_TOKEN)
    return counts


def total_pass_tokens(
    runtime: BaseRuntime, sequences: Sequence[TokenizedPair], adapter: BankedAdapter | None
) -> int:
    """Tokens that all of these sequences take of a pass."""
    return sum(count_pass_tokens(runtime, sequences, [adapter] * len(sequences)))


def get_prefixes(runtime: BaseRuntime, beginnings: Sequence[TokenIds]) -> list[PrefixKV | None]:
    """What the base makes of these beginnings, from memory where they are kept."""
    prefixes: dict[TokenIds, PrefixKV | None] = {(): None}
    for ids in beginnings:
        if ids not in prefixes:
            cached = runtime.prefix_cache.get_prefix(ids)
            prefixes[ids] = cached if cached is not None else _compute_prefix(runtime, ids)
    return [prefixes[ids] for ids in beginnings]


@torch.no_grad()
def _compute_prefix(runtime: BaseRuntime, ids: TokenIds) -> PrefixKV:
    """One beginning in a pass of its own, so that its bits do not depend on its company."""
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


def lay_out_spans(spans: Sequence[PackedSpan], prefixes: Sequence[PrefixKV | None]) -> SequenceLayout:
    """The spans of a pass, which sequence i continues after prefixes[i]."""
    return SequenceLayout(
        list(map(len, spans)),
        [prefixes[span.sequence] for span in spans],
        [span.parent for span in spans],
    )


def cached_hidden_at_layer(
    runtime: BaseRuntime,
    sequences: Sequence[TokenizedPair],
    prefixes: Sequence[PrefixKV | None],
    spans: Sequence[PackedSpan],
    layer: int,
) -> CachedHidden:
    """What a layer is given of these spans of sequences, from memory where it is cached.

    Sequence i continues after prefixes[i].
    """
    hidden = [_hidden_at_layer(runtime, s, b, layer) for s, b in zip(sequences, prefixes, strict=True)]
    skipped = [0 if prefix is None else prefix.shape[3] for prefix in prefixes]
    parts = [
        hidden[s.sequence][s.start - skipped[s.sequence] : s.stop - skipped[s.sequence]] for s in spans
    ]
    return CachedHidden(layer, torch.cat(parts))


@torch.no_grad()
def _hidden_at_layer(
    runtime: BaseRuntime, sequence: TokenizedPair, prefix: PrefixKV | None, layer: int
) -> Float[Tensor, "T D"]:
    """One sequence, likewise in a pass of its own."""
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
    """The keys and values of each sequence of a run: of its cached prefix, and of its spans."""
    both = torch.stack([torch.stack(layer) for layer in states]).transpose(2, 3)  # [L, 2, H, T, D]
    chains: list[list[Tensor]] = []
    for span, part in zip(spans, both.split(list(map(len, spans)), 3), strict=True):
        prefix = prefixes[span.sequence]
        before = [] if prefix is None else [prefix]
        chains.append([*(before if span.parent is None else chains[span.parent]), part])
    last = {span.sequence: chain for span, chain in zip(spans, chains, strict=True)}
    return [torch.cat(last[i], 3) if len(last[i]) > 1 else last[i][0] for i in sorted(last)]


def split_by_tokens(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Cut items 0, 1, ... of these lengths into runs of at most `budget` tokens, keeping their order.

    An item longer than the budget gets a run of its own.
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
