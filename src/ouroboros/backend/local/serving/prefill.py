"""Prompts, run once: their keys and values, and the logits of the token that follows each.

Prompts of different length and adapters are laid end to end, so no token is padding; where an
architecture does not allow that they are padded on the left.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from ouroboros.backend.local.cache.kv_cache import KeysValues
from ouroboros.backend.local.cache.prefix_cache import PrefixKV
from ouroboros.backend.local.decoder.decoder import Decoder, KeysValuesPerLayer
from ouroboros.backend.local.decoder.functional import FUSED_ATTENTION_TOKENS
from ouroboros.backend.local.decoder.packed_attention import (
    PackedKeysValues,
    choose_packed_layout,
    has_packed_attention,
)
from ouroboros.backend.local.forward.packing import is_packable
from ouroboros.backend.local.forward.prefix_reuse import (
    lay_out_spans,
    split_into_spans,
    split_keys_values,
)
from ouroboros.backend.local.model.load import BaseRuntime
from ouroboros.backend.local.model.tokenizer import TokenizedPair
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.route import Route, Segment
from ouroboros.lora.transfer import to_device

Prompts = Sequence[Sequence[int]]


def prefill_prompts(
    runtime: BaseRuntime, prompts: Prompts, adapters: Sequence[BankedAdapter | None]
) -> tuple[Float[Tensor, "B V"], list[list[KeysValues]]]:
    """The next token's logits, and every layer's keys and values, of each prompt under its adapter."""
    if runtime.decoder is not None and runtime.decoder.fits_sliding_window(list(map(len, prompts))):
        return _decoded(runtime, runtime.decoder, prompts, adapters)
    runtime.threads.set_for_pass(runtime.base, sum(map(len, prompts)))
    if is_packable(runtime.base.architecture) and has_packed_attention(runtime.model):
        return _packed(runtime, prompts, adapters)
    return _padded(runtime, prompts, adapters)


def _decoded(
    runtime: BaseRuntime,
    decoder: Decoder,
    prompts: Prompts,
    adapters: Sequence[BankedAdapter | None],
) -> tuple[Float[Tensor, "B V"], list[list[KeysValues]]]:
    """By our own pass, from what is kept of what the base reads by itself; that is kept in turn."""
    # 1. What is cached of each prompt, and what the prompts share.
    pairs = [TokenizedPair(tuple(p), ()) for p in prompts]
    base_only = [
        p.prompt[: a.first_adapted_token(len(p))] if a is not None else ()
        for p, a in zip(pairs, adapters, strict=True)
    ]
    cached = [cached_prefix(runtime, b, len(p)) for b, p in zip(base_only, prompts, strict=True)]
    spans = split_into_spans(pairs, adapters, [0 if c is None else c.shape[3] for c in cached])

    # 2. One pass over all tokens that are not cached, up to the last token of each prompt.
    lengths = list(map(len, spans))
    ends = list(accumulate(lengths))
    route = Route.from_segments(
        segment
        for span, end in zip(spans, ends, strict=True)
        for segment in Segment.split_sequence(adapters[span.sequence], end - len(span), len(span), end)
    )
    last = [e - 1 for s, e in zip(spans, ends, strict=True) if s.stop == len(pairs[s.sequence])]
    ids = torch.tensor([t for s in spans for t in pairs[s.sequence].prompt[s.start : s.stop]])
    positions = torch.cat([torch.arange(s.start, s.stop) for s in spans])
    states: KeysValuesPerLayer = []
    runtime.threads.set_for_pass(runtime.base, len(ids))
    hidden = decoder.final_hidden(
        to_device(ids, runtime.device),
        to_device(positions, runtime.device),
        lay_out_spans(spans, cached),
        route,
        torch.tensor(last),
        keys_values=states,
    )

    # 3. The keys and values of each prompt; those of the base alone are cached.
    rows = split_keys_values(states, spans, cached)
    for part, row in zip(base_only, rows, strict=True):
        runtime.prefix_cache.put_blocks(part, row[:, :, :, : len(part)])
    return decoder.head(hidden), [[(keys, values) for keys, values in row] for row in rows]


def cached_prefix(runtime: BaseRuntime, shared: tuple[int, ...], tokens: int) -> PrefixKV | None:
    """What is kept of a prompt, unless so much is not that attention had better keep no weights."""
    prefix = runtime.prefix_cache.get_blocks(shared)
    return prefix if prefix is not None and tokens - prefix.shape[3] <= FUSED_ATTENTION_TOKENS else None


def _packed(
    runtime: BaseRuntime, prompts: Prompts, adapters: Sequence[BankedAdapter | None]
) -> tuple[Float[Tensor, "B V"], list[list[KeysValues]]]:
    device, lengths = runtime.device, [len(p) for p in prompts]
    ends = torch.tensor(lengths).cumsum(0)
    spans = [slice(int(end) - length, int(end)) for end, length in zip(ends, lengths, strict=True)]
    route = Route.from_segments(
        segment
        for a, s, n in zip(adapters, spans, lengths, strict=True)
        for segment in Segment.split_sequence(a, s.start, n, s.stop)
    )
    kept: PackedKeysValues = []
    with runtime.bank.routed(route):
        logits = runtime.model(
            input_ids=to_device(torch.tensor([[t for p in prompts for t in p]]), device),
            position_ids=to_device(torch.cat([torch.arange(n) for n in lengths])[None], device),
            logits_to_keep=to_device(ends - 1, device),
            use_cache=False,
            packing=choose_packed_layout(lengths, device),
            keys_values=kept,
        ).logits[0]
    return logits, [[(k[0, :, s], v[0, :, s]) for k, v in kept] for s in spans]


def _padded(
    runtime: BaseRuntime, prompts: Prompts, adapters: Sequence[BankedAdapter | None]
) -> tuple[Float[Tensor, "B V"], list[list[KeysValues]]]:
    ids, mask = (to_device(part, runtime.device) for part in _left_padded(prompts))
    width = ids.shape[1]
    route = Route.from_segments(
        segment  # padding counts to the prompt, which ends where the row does
        for i, a in enumerate(adapters)
        for segment in Segment.split_sequence(a, i * width, width, (i + 1) * width)
    )
    cache = DynamicCache()  # without the config: every layer keeps all its tokens, sliding ones too
    with runtime.bank.routed(route):
        logits = runtime.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=to_device(torch.tensor([width - 1]), runtime.device),
        ).logits[:, -1]
    layers: list[KeysValues] = [(keys, values) for keys, values, *_ in cache]  # type: ignore[misc]
    starts = [width - len(p) for p in prompts]
    return logits, [[(k[i, :, s:], v[i, :, s:]) for k, v in layers] for i, s in enumerate(starts)]


def _left_padded(prompts: Prompts) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Ids and mask, each prompt ending at the last column."""
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids, mask
