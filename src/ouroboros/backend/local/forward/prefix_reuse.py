"""What the base reads by itself, before anything else runs.

Adapters that act on answers only leave most of a prompt to it, and those of the top layers everything
below. No gradient goes there, and what comes out is the same for all of them: it is read once, without
autograd, and kept in `prefix_cache`.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ouroboros.backend.local.cache.prefix_cache import PrefixKV
from ouroboros.backend.local.decoder.decoder import CachedHidden, KeysValuesPerLayer
from ouroboros.backend.local.decoder.functional import FUSED_ATTENTION_TOKENS
from ouroboros.backend.local.model.load import BaseRuntime
from ouroboros.backend.local.model.tokenizer import TokenizedPair
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.route import Route, Segment
from ouroboros.lora.transfer import to_device

CACHED_TOKENS_PER_RUN_TOKEN = 8
"""Tokens read before that cost a pass as much as one that it runs."""

TokenIds = tuple[int, ...]


def select_base_prefix(sequence: TokenizedPair, adapter: BankedAdapter | None) -> TokenIds:
    """What the base reads of a sequence by itself; nothing where the adapter acts on all of it.

    Very long answers are run with their prompts: attention there keeps no weights.
    """
    first_adapted = adapter.first_adapted_token(len(sequence.prompt)) if adapter is not None else 0
    return (
        () if len(sequence) - first_adapted > FUSED_ATTENTION_TOKENS else sequence.prompt[:first_adapted]
    )


def count_pass_tokens(
    runtime: BaseRuntime, sequences: Sequence[TokenizedPair], adapters: Sequence[BankedAdapter | None]
) -> list[int]:
    """Tokens that a pass has to run for each sequence; those that the base reads before count little.

    It does not matter whether they are kept at the moment: who shares a pass decides the last bits.
    """
    counts = []
    for sequence, adapter in zip(sequences, adapters, strict=True):
        prefix_length = len(select_base_prefix(sequence, adapter)) if runtime.decoder is not None else 0
        counts.append(len(sequence) - prefix_length + prefix_length // CACHED_TOKENS_PER_RUN_TOKEN)
    return counts


def total_pass_tokens(
    runtime: BaseRuntime, sequences: Sequence[TokenizedPair], adapter: BankedAdapter | None
) -> int:
    """Tokens that all of these sequences take of a pass."""
    return sum(count_pass_tokens(runtime, sequences, [adapter] * len(sequences)))


def get_prefixes(runtime: BaseRuntime, base_parts: Sequence[TokenIds]) -> list[PrefixKV | None]:
    """What the base makes of these beginnings, from memory where they are kept."""
    prefixes: dict[TokenIds, PrefixKV | None] = {(): None}
    for ids in base_parts:
        if ids not in prefixes:
            cached = runtime.prefix_cache.get_prefix(ids)
            prefixes[ids] = cached if cached is not None else _compute_prefix(runtime, ids)
    return [prefixes[ids] for ids in base_parts]


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
        [len(ids)],
        route,
        tokens[:0],
        keys_values=states,
    )
    (whole,) = split_keys_values(states, [len(ids)], [None])
    runtime.prefix_cache.put_prefix(ids, whole)
    return whole


def get_hidden_at_layer(
    runtime: BaseRuntime,
    sequences: Sequence[TokenizedPair],
    prefixes: Sequence[PrefixKV | None],
    layer: int,
) -> CachedHidden:
    """What a layer is given of these sequences, behind what was read of each, from memory where kept."""
    parts = [
        _get_sequence_hidden(runtime, s, b, layer) for s, b in zip(sequences, prefixes, strict=True)
    ]
    return CachedHidden(layer, torch.cat(parts))


@torch.no_grad()
def _get_sequence_hidden(
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
        hidden = runtime.decoder.hidden_at_layer(layer, tokens, positions, [len(positions)], [prefix])
        runtime.prefix_cache.put_hidden(ids, hidden, start, layer)
    return hidden


def split_keys_values(
    states: KeysValuesPerLayer, lengths: Sequence[int], prefixes: Sequence[PrefixKV | None]
) -> list[PrefixKV]:
    """The keys and values of a run, by sequence, behind those that each began with."""
    both = torch.stack([torch.stack(layer) for layer in states]).transpose(2, 3)  # [L, 2, H, T, D]
    parts: list[Tensor] = list(both.split(list(lengths), 3))
    return [p if b is None else torch.cat([b, p], 3) for p, b in zip(parts, prefixes, strict=True)]


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
