"""Prefill: one pass over prompts gives their keys and values, and the logits of each next token.

Prompts of any lengths and adapters are concatenated, so no token is padding. If the architecture does
not support that, they are padded on the left.
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
from ouroboros.backend.local.forward.packing import is_packable, pack_sequences
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
    """Returns the next token's logits [B, V], and for each prompt the keys and values of every layer."""
    if runtime.decoder is not None and runtime.decoder.fits_sliding_window(list(map(len, prompts))):
        return _prefill_with_decoder(runtime, runtime.decoder, prompts, adapters)
    runtime.threads.set_for_pass(runtime.base, sum(map(len, prompts)))
    if is_packable(runtime.base.architecture) and has_packed_attention(runtime.model):
        return _prefill_packed(runtime, prompts, adapters)
    return _prefill_padded(runtime, prompts, adapters)


def _prefill_with_decoder(
    runtime: BaseRuntime,
    decoder: Decoder,
    prompts: Prompts,
    adapters: Sequence[BankedAdapter | None],
) -> tuple[Float[Tensor, "B V"], list[list[KeysValues]]]:
    """Prefill with our decoder; prefixes that only the base reads come from the cache and go there.

    Where an adapter acts on answers only, most of a prompt is such a prefix.
    """
    # 1. Find the base-only part of each prompt, its longest cached prefix, and what prompts share.
    pairs = [TokenizedPair(tuple(p), ()) for p in prompts]
    base_parts = [
        p.prompt[: a.first_adapted_token(len(p))] if a is not None else ()
        for p, a in zip(pairs, adapters, strict=True)
    ]
    prefixes = [
        get_cached_prefix(runtime, part, len(p)) for part, p in zip(base_parts, prompts, strict=True)
    ]
    cached_lengths = [0 if prefix is None else prefix.shape[3] for prefix in prefixes]
    spans = split_into_spans(pairs, adapters, cached_lengths)

    # 2. Run the spans in one pass. The last span of each prompt has the token whose logits are needed.
    batch = pack_sequences(pairs, adapters, True, runtime.device, spans=spans)
    ends = list(accumulate(batch.lengths))
    last_tokens = [
        end - 1
        for span, end in zip(spans, ends, strict=True)
        if span.stop == len(prompts[span.sequence])
    ]
    states: KeysValuesPerLayer = []
    runtime.threads.set_for_pass(runtime.base, ends[-1])
    assert batch.positions is not None  # sequences that are packed have them
    hidden = decoder.final_hidden(
        batch.ids[0],
        batch.positions[0],
        lay_out_spans(spans, prefixes),
        batch.route,
        torch.tensor(last_tokens),
        keys_values=states,
    )

    # 3. Split keys and values by prompt; those of base-only parts go to the cache.
    rows = split_keys_values(states, spans, prefixes)
    for part, row in zip(base_parts, rows, strict=True):
        runtime.prefix_cache.put_blocks(part, row[:, :, :, : len(part)])
    return decoder.head(hidden), [[(keys, values) for keys, values in row] for row in rows]


def get_cached_prefix(
    runtime: BaseRuntime, base_part: tuple[int, ...], prompt_tokens: int
) -> PrefixKV | None:
    """Returns the cached prefix of a prompt's base-only part.

    If more tokens remain than attention computes with explicit weights, the result is None: a whole
    prompt runs in fused attention.
    """
    prefix = runtime.prefix_cache.get_blocks(base_part)
    return (
        prefix
        if prefix is not None and prompt_tokens - prefix.shape[3] <= FUSED_ATTENTION_TOKENS
        else None
    )


def _prefill_packed(
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
    keys_values: PackedKeysValues = []
    with runtime.bank.use_route(route):
        logits = runtime.model(
            input_ids=to_device(torch.tensor([[t for p in prompts for t in p]]), device),
            position_ids=to_device(torch.cat([torch.arange(n) for n in lengths])[None], device),
            logits_to_keep=to_device(ends - 1, device),
            use_cache=False,
            packing=choose_packed_layout(lengths, device),
            keys_values=keys_values,
        ).logits[0]
    return logits, [[(k[0, :, s], v[0, :, s]) for k, v in keys_values] for s in spans]


def _prefill_padded(
    runtime: BaseRuntime, prompts: Prompts, adapters: Sequence[BankedAdapter | None]
) -> tuple[Float[Tensor, "B V"], list[list[KeysValues]]]:
    ids, mask = (to_device(part, runtime.device) for part in _pad_left(prompts))
    width = ids.shape[1]
    route = Route.from_segments(
        segment  # padding counts as prompt, which ends at the end of the row
        for i, a in enumerate(adapters)
        for segment in Segment.split_sequence(a, i * width, width, (i + 1) * width)
    )
    cache = DynamicCache()  # without the config, sliding layers keep all their tokens too
    with runtime.bank.use_route(route):
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


def _pad_left(prompts: Prompts) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Returns ids and mask, with each prompt's end in the last column."""
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids, mask
