"""One forward pass over many sequences: packed, each under its adapter, to logits of output tokens.

Sequences are concatenated into one row [1, T] with positions that restart at each, so no token is
padding and the result equals running each alone. Our decoder runs what several of them begin with once.
Architectures whose attention does not use positions (ALiBi, recurrent state) are padded instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ouroboros.backend.local.cache.prefix_cache import PrefixKV
from ouroboros.backend.local.decoder.decoder import Decoder
from ouroboros.backend.local.decoder.packed_attention import choose_packed_layout, has_packed_attention
from ouroboros.backend.local.forward.logprobs import gather_logprobs
from ouroboros.backend.local.forward.pass_tokens import PassTokens, split_into_passes
from ouroboros.backend.local.forward.prefix_reuse import (
    get_hidden_at_layer,
    get_prefixes,
    lay_out_spans,
    select_base_prefix,
    split_into_spans,
)
from ouroboros.backend.local.forward.shards import Shard, run_in_shards
from ouroboros.backend.local.forward.shared_prefixes import PackedSpan
from ouroboros.backend.local.model.load import BaseRuntime
from ouroboros.backend.local.model.tokenizer import TokenizedPair
from ouroboros.backend.local.runtime.worker import Steps
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.route import Route, Segment
from ouroboros.lora.transfer import to_device

_PACKABLE = frozenset(
    "cohere cohere2 gemma gemma2 gemma3_text gpt2 gpt_neox gptj granite llama mistral mixtral olmo "
    "olmo2 phi phi3 qwen2 qwen3 qwen3_moe smollm3 stablelm starcoder2".split()
)
"""Model types whose packed and separate runs tests/backend/local/forward/test_packing.py shows equal."""


def is_packable(model_type: str) -> bool:
    """Whether sequences of this architecture may share a row."""
    return model_type in _PACKABLE


@dataclass(frozen=True)
class PackedBatch:
    """The layout of sequences in one forward pass. Output tokens are labelled: L in all.

    ids, positions [B, T]  `positions` is None if rows are padded, `mask` [B, T] if they are packed.
    output_positions [K]   token positions whose logits are needed; on the CPU.
    rows, columns [L]      where the logits of each labelled token are, in [B, K].
    targets [L]            the labelled tokens.
    sequence_index [L]     the sequence of each; on the CPU.
    spans                  the tokens that this pass runs; whole sequences unless it shares prefixes.
    lengths                tokens of each span.
    """

    ids: Int[Tensor, "B T"]
    positions: Int[Tensor, "B T"] | None
    mask: Int[Tensor, "B T"] | None
    output_positions: Int[Tensor, "K"]
    rows: Int[Tensor, "L"]
    columns: Int[Tensor, "L"]
    targets: Int[Tensor, "L"]
    sequence_index: Int[Tensor, "L"]
    spans: Sequence[PackedSpan]
    lengths: list[int]
    route: Route


class OutputTokens(NamedTuple):
    """The output tokens of a pass's sequences: each token, and the sequence it is in (on the CPU)."""

    targets: Int[Tensor, "L"]
    sequence_index: Int[Tensor, "L"]


def pack_sequences(
    sequences: Sequence[TokenizedPair],
    adapters: Sequence[BankedAdapter | None],
    packed: bool,
    device: torch.device,
    inputs: dict[str, Tensor] | None = None,
    spans: Sequence[PackedSpan] = (),
) -> PackedBatch:
    """Lay out sequences for a pass; sequence i runs under adapters[i]. `inputs` is as in `Route`.

    Where `spans` are given, the pass runs these tokens instead of whole sequences.
    """
    # 1. Where each span starts: behind the last one if packed, else in a row of its own.
    spans = spans or [PackedSpan(i, 0, len(s)) for i, s in enumerate(sequences)]
    lengths = list(map(len, spans))
    width = max(lengths)
    starts = [0] * len(spans)
    if packed:
        starts = [0, *accumulate(lengths[:-1])]
        width = sum(lengths)

    # 2. Copy ids; the logits of an output token are at the position before it, which is in the last span
    #    of its sequence. Route each span to its adapter, which may act on the output alone.
    ids = torch.zeros(1 if packed else len(spans), width, dtype=torch.long)
    positions, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    output_positions: list[int] = []
    segments: list[Segment] = []
    for i, (span, start) in enumerate(zip(spans, starts, strict=True)):
        sequence, stop = sequences[span.sequence], start + len(span)
        row, columns = 0 if packed else i, slice(start, stop)
        ids[row, columns] = torch.tensor((sequence.prompt + sequence.output)[span.start : span.stop])
        positions[row, columns] = torch.arange(span.start, span.stop)
        mask[row, columns] = 1
        prompt_tokens = min(len(sequence.prompt), span.stop) - span.start
        if span.stop == len(sequence):
            output_start = start + prompt_tokens - 1
            output_positions.extend(range(output_start, output_start + len(sequence.output)))
        first, stop = (start, stop) if packed else (i * width, (i + 1) * width)
        segments += Segment.split_sequence(adapters[span.sequence], first, prompt_tokens, stop)

    # 3. Padded rows share positions, so each position is computed once for all rows.
    labels = torch.tensor([len(s.output) for s in sequences])
    sequence_index = torch.arange(len(sequences)).repeat_interleave(labels)
    targets = [token for sequence in sequences for token in sequence.output]
    unique_positions, columns = torch.tensor(output_positions, dtype=torch.long).unique(
        return_inverse=True
    )
    return PackedBatch(
        ids=to_device(ids, device),
        positions=to_device(positions, device) if packed else None,
        mask=None if packed else to_device(mask, device),
        output_positions=unique_positions,
        rows=to_device(torch.zeros_like(sequence_index) if packed else sequence_index, device),
        columns=to_device(columns, device),
        targets=to_device(torch.tensor(targets, dtype=torch.long), device),
        sequence_index=sequence_index,
        spans=spans,
        lengths=lengths,
        route=Route.from_segments(segments, inputs),
    )


def compute_output_logits(
    runtime: BaseRuntime,
    sequences: Sequence[TokenizedPair],
    adapters: Sequence[BankedAdapter | None],
    recompute: bool = False,
    first_layer: int = 0,
) -> tuple[Float[Tensor, "L V"], OutputTokens]:
    """Compute the logits [L, V] at each output token of the sequences, in the model's dtype.

    Sequence i runs under adapters[i]. The vocabulary projection runs at the labelled positions only,
    gathered into one contiguous block: on a CPU in bfloat16 a strided slice there is ten times slower.
    With `recompute` the decoder saves little and computes each layer again in the backward pass. No
    adapter acts below `first_layer`; the hidden states that it is given are cached.
    """
    decoder = _choose_decoder(runtime, sequences)
    if decoder is None:
        logits, batch = _run_model(runtime, sequences, adapters)
        return logits, OutputTokens(batch.targets, batch.sequence_index)
    shards = _split_into_shards(runtime, decoder, sequences, adapters) if first_layer == 0 else []
    if len(shards) > 1:
        return _sharded_logits(runtime, decoder, sequences, adapters, recompute, shards)
    hidden, batch = _run_decoder(
        runtime, decoder, sequences, adapters, recompute=recompute, first_layer=first_layer
    )
    return decoder.head(hidden), OutputTokens(batch.targets, batch.sequence_index)


def compute_token_logprobs(
    runtime: BaseRuntime, sequences: Sequence[TokenizedPair], adapters: Sequence[BankedAdapter | None]
) -> tuple[Float[Tensor, "L"], Int[Tensor, "L"]]:
    """Returns the log-probability of each output token, in nats, and the index of its sequence."""
    logits, batch = compute_output_logits(runtime, sequences, adapters)
    return gather_logprobs(logits, batch.targets), batch.sequence_index


def collect_layer_inputs(
    runtime: BaseRuntime, sequences: Sequence[TokenizedPair], adapter: BankedAdapter
) -> dict[str, Float[Tensor, "*T I"]]:
    """Collect the inputs [T, I] of each adapted layer, by path, at the tokens that the adapter acts on.

    In our decoder the last layer runs at labelled tokens only; there the inputs are of those. A token
    that n sequences share is one row, times the square root of n: X^T X is that of all sequences.
    """
    inputs: dict[str, Tensor] = {}
    decoder, adapters = _choose_decoder(runtime, sequences), [adapter] * len(sequences)
    if decoder is None:
        with torch.no_grad():
            _run_model(runtime, sequences, adapters, inputs)
        return inputs
    prefixes = _get_prefixes(runtime, sequences, adapters)

    def collect(members: Sequence[int]) -> dict[str, Tensor]:
        shard_inputs: dict[str, Tensor] = {}
        with torch.no_grad():  # a setting of each thread
            _, batch = _run_decoder(
                runtime,
                decoder,
                [sequences[i] for i in members],
                [adapters[i] for i in members],
                shard_inputs,
                prefixes=[prefixes[i] for i in members],
            )
            return _scale_by_uses(shard_inputs, batch)

    shards = _split_into_shards(runtime, decoder, sequences, adapters)
    if len(shards) == 1:
        return collect(shards[0])
    return _join_inputs(runtime.threads.run_shards([partial(collect, shard) for shard in shards]))


def _join_inputs(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The inputs of all shards, one after the other. Layers that have the same input keep one tensor."""
    joined: dict[int, Tensor] = {}
    for path, first in parts[0].items():
        if id(first) not in joined:
            joined[id(first)] = torch.cat([part[path] for part in parts])
    return {path: joined[id(first)] for path, first in parts[0].items()}


def _scale_by_uses(inputs: dict[str, Tensor], batch: PackedBatch) -> dict[str, Tensor]:
    """Multiply each token's inputs by the square root of the number of sequences that have it."""
    if all(span.uses == 1 for span in batch.spans):
        return inputs
    uses = torch.tensor([float(span.uses) for span in batch.spans for _ in range(len(span))])
    adapted = [uses[s.start : s.stop] for s in batch.route.segments if s.adapter is not None]
    factors = to_device(torch.cat(adapted).sqrt()[:, None], batch.ids.device)
    # Layers that have the same input keep one tensor. Labelled tokens alone are never shared.
    scaled = {id(x): x.float() * factors for x in inputs.values() if len(x) == len(factors)}
    return {path: scaled.get(id(x), x) for path, x in inputs.items()}


def _choose_decoder(runtime: BaseRuntime, sequences: Sequence[TokenizedPair]) -> Decoder | None:
    decoder = runtime.decoder
    return (
        decoder
        if decoder is not None and decoder.fits_sliding_window(list(map(len, sequences)))
        else None
    )


def _split_into_shards(
    runtime: BaseRuntime,
    decoder: Decoder,
    sequences: Sequence[TokenizedPair],
    adapters: Sequence[BankedAdapter | None],
) -> list[list[int]]:
    """The sequences of each shard of a pass; one shard where it is not divided."""
    if runtime.device.type != "cpu" or not decoder.is_stateless:
        return [list(range(len(sequences)))]
    # Sequences of one prompt (chosen and rejected answers) stay together: they share nearly all of it.
    units: dict[object, list[int]] = {}
    tokens: dict[object, int] = {}
    pass_tokens = PassTokens(runtime)
    for i, (sequence, adapter) in enumerate(zip(sequences, adapters, strict=True)):
        key = (adapter, sequence.prompt)
        units.setdefault(key, []).append(i)
        tokens[key] = tokens.get(key, 0) + pass_tokens.add(sequence, adapter)
    shards = runtime.threads.split_rows(runtime.base, list(tokens.values()))
    members = list(units.values())
    return [sorted(i for unit in shard for i in members[unit]) for shard in shards]


def _sharded_logits(
    runtime: BaseRuntime,
    decoder: Decoder,
    sequences: Sequence[TokenizedPair],
    adapters: Sequence[BankedAdapter | None],
    recompute: bool,
    shards: Sequence[Sequence[int]],
) -> tuple[Float[Tensor, "L V"], OutputTokens]:
    """`compute_output_logits`, each shard on a thread from the embedding to the head and back."""
    outputs = [len(s.output) for s in sequences]
    sequence_index = torch.arange(len(sequences)).repeat_interleave(torch.tensor(outputs))
    targets = torch.tensor([t for s in sequences for t in s.output])
    label_rows = torch.arange(len(targets)).split(outputs)
    prefixes = _get_prefixes(runtime, sequences, adapters)

    def forward(members: Sequence[int], shard_adapters: Sequence[BankedAdapter | None]) -> Tensor:
        hidden, _ = _run_decoder(
            runtime,
            decoder,
            [sequences[i] for i in members],
            shard_adapters,
            recompute=recompute,
            prefixes=[prefixes[i] for i in members],
        )
        return decoder.head(hidden)

    # Each shard adds its gradients up in a row of its own, so that threads never wait for a lock.
    parts = []
    for k, members in enumerate(shards):
        shard_adapters = [None if (a := adapters[i]) is None else a.shard(k) for i in members]
        run = partial(forward, members, shard_adapters)
        parts.append(Shard(run, torch.cat([label_rows[i] for i in members])))
    distinct = [a for a in dict.fromkeys(adapters) if a is not None]
    trained = distinct if torch.is_grad_enabled() else []
    return run_in_shards(runtime.threads, parts, trained), OutputTokens(targets, sequence_index)


def _get_prefixes(
    runtime: BaseRuntime, sequences: Sequence[TokenizedPair], adapters: Sequence[BankedAdapter | None]
) -> list[PrefixKV | None]:
    """What the base alone reads of each sequence, computed or from the cache."""
    return get_prefixes(
        runtime, [select_base_prefix(s, a) for s, a in zip(sequences, adapters, strict=True)]
    )


def _run_decoder(
    runtime: BaseRuntime,
    decoder: Decoder,
    sequences: Sequence[TokenizedPair],
    adapters: Sequence[BankedAdapter | None],
    inputs: dict[str, Tensor] | None = None,
    recompute: bool = False,
    first_layer: int = 0,
    prefixes: Sequence[PrefixKV | None] | None = None,
) -> tuple[Float[Tensor, "K D"], PackedBatch]:
    """Run our decoder; returns the hidden states [K, D] that the head needs, and the layout.

    `prefixes` are those of the sequences where the caller has them: a shard does not touch the cache.
    """
    prefixes = _get_prefixes(runtime, sequences, adapters) if prefixes is None else prefixes
    base_parts = [select_base_prefix(s, a) for s, a in zip(sequences, adapters, strict=True)]
    spans = split_into_spans(sequences, adapters, list(map(len, base_parts)))
    batch = pack_sequences(sequences, adapters, True, runtime.device, inputs, spans)
    ids, positions = batch.ids[0], batch.positions
    assert positions is not None  # sequences that are packed have them
    cached_hidden = (
        get_hidden_at_layer(runtime, sequences, prefixes, spans, first_layer) if first_layer else None
    )
    if len(sequences) > 1 and first_layer == 0:
        runtime.threads.use_one()  # a longer pass would have been divided
    else:
        runtime.threads.set_for_pass(runtime.base, sum(batch.lengths))
    hidden = decoder.final_hidden(
        ids,
        positions[0],
        lay_out_spans(spans, prefixes),
        batch.route,
        batch.output_positions,
        recompute,
        cached_hidden=cached_hidden,
    )
    return hidden, batch


def _run_model(
    runtime: BaseRuntime,
    sequences: Sequence[TokenizedPair],
    adapters: Sequence[BankedAdapter | None],
    inputs: dict[str, Tensor] | None = None,
) -> tuple[Float[Tensor, "L V"], PackedBatch]:
    """Run the model of the library; returns the logits [L, V] at output tokens, and the layout."""
    batch = pack_sequences(
        sequences, adapters, is_packable(runtime.base.architecture), runtime.device, inputs
    )
    runtime.threads.set_for_pass(runtime.base, sum(batch.lengths))
    extra: dict[str, Any] = (
        {"attention_mask": batch.mask} if batch.positions is None else {"position_ids": batch.positions}
    )
    if batch.positions is not None and has_packed_attention(runtime.model):
        extra["packing"] = choose_packed_layout(batch.lengths, runtime.device)
    with runtime.bank.use_route(batch.route):
        logits = runtime.model(
            input_ids=batch.ids,
            logits_to_keep=to_device(batch.output_positions, runtime.device),
            use_cache=False,
            **extra,
        ).logits
    return logits[0] if batch.positions is not None else logits[batch.rows, batch.columns], batch


def compute_output_logprobs(
    runtime: BaseRuntime, sequences: Sequence[TokenizedPair], adapters: Sequence[BankedAdapter | None]
) -> Steps[Any, list[Float[Tensor, "T"]]]:
    """Returns the log-probabilities of each output's tokens, in nats, without gradients.

    Yields after each forward pass.
    """
    output_logprobs: list[Tensor] = []
    for run in split_into_passes(runtime, sequences, adapters):
        chosen = [sequences[i] for i in run]
        with torch.no_grad():
            logprobs, _ = compute_token_logprobs(runtime, chosen, [adapters[i] for i in run])
        output_logprobs.extend(logprobs.cpu().split([len(s.output) for s in chosen]))
        yield None
    return output_logprobs
