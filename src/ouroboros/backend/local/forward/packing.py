"""One forward pass over many sequences: packed, routed to adapters, read as log-probabilities.

Sequences are laid end to end in one row [1, T] with positions that restart, so no token is padding and
the result equals running each alone. Our own passes run what several of them begin with once.
Architectures whose attention does not go by positions (ALiBi, recurrent state) are padded instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ouroboros.backend.local.decoder.decoder import Decoder
from ouroboros.backend.local.decoder.packed_attention import choose_packed_layout, has_packed_attention
from ouroboros.backend.local.forward.logprobs import gather_logprobs
from ouroboros.backend.local.forward.prefix_reuse import (
    base_only_prefix,
    cached_hidden_at_layer,
    count_pass_tokens,
    get_prefixes,
    lay_out_spans,
    split_by_tokens,
    split_into_spans,
)
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
    """Sequences laid out for one forward pass.

    ids, positions  [B, T]; `mask [B, T]` is set where rows are padded.
    keep            [K] token positions whose logits are wanted; in the processor's memory.
    rows, columns   [L] where the logits of each labelled token are, in [B, K].
    targets         [L] the labelled tokens.
    owner           [L] the sequence each belongs to; in the processor's memory.
    lengths         of the spans: of the sequences, or of the beginnings that they share and of the rest.
    spans           the tokens of each, and the span that it continues.
    """

    ids: Int[Tensor, "B T"]
    positions: Int[Tensor, "B T"] | None
    mask: Int[Tensor, "B T"] | None
    output_positions: Int[Tensor, "K"]
    rows: Int[Tensor, "L"]
    columns: Int[Tensor, "L"]
    targets: Int[Tensor, "L"]
    sequence_index: Int[Tensor, "L"]
    lengths: list[int]
    spans: list[PackedSpan]
    route: Route


def pack_sequences(
    sequences: Sequence[TokenizedPair],
    adapters: Sequence[BankedAdapter | None],
    packed: bool,
    device: torch.device,
    inputs: dict[str, Tensor] | None = None,
    spans: Sequence[PackedSpan] = (),
) -> PackedBatch:
    """Lay sequences out; sequence i belongs to adapters[i]. `inputs` is as in `Route`.

    Where `spans` are given, only these tokens are laid out, in this order.
    """
    # 1. Where each span starts: end to end in one row, or each in a row of its own.
    spans = list(spans) or [PackedSpan(i, 0, len(s)) for i, s in enumerate(sequences)]
    lengths = list(map(len, spans))
    width = sum(lengths) if packed else max(lengths)
    starts = [end - n for n, end in zip(lengths, accumulate(lengths), strict=True)]
    if not packed:
        starts = [0] * len(spans)

    # 2. Tokens and their adapters. The last span of a sequence has the places where its output's tokens
    #    are predicted.
    ids = torch.zeros(1 if packed else len(spans), width, dtype=torch.long)
    positions, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    at: list[int] = []
    segments: list[Segment] = []
    for i, (span, start) in enumerate(zip(spans, starts, strict=True)):
        sequence, adapter = sequences[span.sequence], adapters[span.sequence]
        row, place = 0 if packed else i, slice(start, start + len(span))
        ids[row, place] = torch.tensor((sequence.prompt + sequence.output)[span.start : span.stop])
        positions[row, place] = torch.arange(span.start, span.stop)
        mask[row, place] = 1
        prompt = min(len(sequence.prompt), span.stop) - span.start
        if span.stop == len(sequence):
            at.extend(range(start + prompt - 1, start + prompt - 1 + len(sequence.output)))
        first, stop = (start, start + len(span)) if packed else (i * width, (i + 1) * width)
        segments += Segment.split_sequence(adapter, first, prompt, stop)

    # 3. Where the logits of each label are, and whose it is.
    labels = torch.tensor([len(s.output) for s in sequences])
    owner = torch.arange(len(sequences)).repeat_interleave(labels)
    keep, columns = torch.tensor(at).unique(return_inverse=True)
    return PackedBatch(
        ids=to_device(ids, device),
        positions=to_device(positions, device) if packed else None,
        mask=None if packed else to_device(mask, device),
        output_positions=keep,
        rows=to_device(torch.zeros_like(owner) if packed else owner, device),
        columns=to_device(columns, device),
        targets=to_device(torch.tensor([t for s in sequences for t in s.output]), device),
        sequence_index=owner,
        lengths=lengths,
        spans=spans,
        route=Route.from_segments(segments, inputs),
    )


def compute_output_logits(
    runtime: BaseRuntime,
    sequences: Sequence[TokenizedPair],
    adapters: Sequence[BankedAdapter | None],
    recompute: bool = False,
    first_layer: int = 0,
) -> tuple[Float[Tensor, "L V"], PackedBatch]:
    """What the model says, in its dtype, where each output token of the sequences stands.

    Sequence i is run under adapters[i]. The vocabulary projection runs at the labelled positions only,
    gathered into one contiguous block: on a CPU in bfloat16 a strided slice there is ten times slower.
    With `recompute` the decoder saves little and computes each layer again in the backward pass. No
    adapter acts below `first_layer`; the hidden states that it is given are cached.
    """
    decoder = _usable_decoder(runtime, sequences)
    if decoder is None:
        return _model_logits(runtime, sequences, adapters)
    hidden, batch = _decoder_hidden(
        runtime, decoder, sequences, adapters, again=recompute, start=first_layer
    )
    return decoder.head(hidden), batch


def compute_token_logprobs(
    runtime: BaseRuntime, sequences: Sequence[TokenizedPair], adapters: Sequence[BankedAdapter | None]
) -> tuple[Float[Tensor, "L"], Int[Tensor, "L"]]:
    """Log-probability of every output token of the sequences, and the sequence it is in."""
    logits, batch = compute_output_logits(runtime, sequences, adapters)
    return gather_logprobs(logits, batch.targets), batch.sequence_index


def collect_layer_inputs(
    runtime: BaseRuntime, sequences: Sequence[TokenizedPair], adapter: BankedAdapter
) -> dict[str, Float[Tensor, "*T I"]]:
    """What each adapted layer is given of the tokens that the adapter acts on, by path; where own passes
    bring only what is labelled to a layer, of those.

    Tokens that n sequences share are one row, times the square root of n: sums of x^T x over the rows
    are those over the tokens of all sequences.
    """
    inputs: dict[str, Tensor] = {}
    decoder, adapters = _usable_decoder(runtime, sequences), [adapter] * len(sequences)
    with torch.no_grad():
        if decoder is None:
            _model_logits(runtime, sequences, adapters, inputs)
            return inputs
        _, batch = _decoder_hidden(runtime, decoder, sequences, adapters, inputs)
        return _scale_by_uses(inputs, batch)


def _scale_by_uses(inputs: dict[str, Tensor], batch: PackedBatch) -> dict[str, Tensor]:
    """Inputs times the square root of the number of sequences that have each token."""
    if all(span.uses == 1 for span in batch.spans):
        return inputs
    uses = torch.tensor([float(span.uses) for span in batch.spans for _ in range(len(span))])
    adapted = [uses[s.start : s.stop] for s in batch.route.segments if s.adapter is not None]
    factors = torch.cat(adapted).sqrt()[:, None]
    factors = to_device(factors, batch.ids.device)
    # Layers that are given the same tensor stay so. The last layer's labelled tokens are never shared.
    scaled = {id(x): x.float() * factors for x in inputs.values() if len(x) == len(factors)}
    return {path: scaled.get(id(x), x) for path, x in inputs.items()}


def _usable_decoder(runtime: BaseRuntime, sequences: Sequence[TokenizedPair]) -> Decoder | None:
    decoder = runtime.decoder
    return (
        decoder
        if decoder is not None and decoder.fits_sliding_window(list(map(len, sequences)))
        else None
    )


def _decoder_hidden(
    runtime: BaseRuntime,
    decoder: Decoder,
    sequences: Sequence[TokenizedPair],
    adapters: Sequence[BankedAdapter | None],
    inputs: dict[str, Tensor] | None = None,
    again: bool = False,
    start: int = 0,
) -> tuple[Float[Tensor, "K D"], PackedBatch]:
    """What the head sees by our own passes where each output token stands."""
    parts = [base_only_prefix(s, a) for s, a in zip(sequences, adapters, strict=True)]
    prefixes = get_prefixes(runtime, parts)
    spans = split_into_spans(sequences, adapters, list(map(len, parts)))
    batch = pack_sequences(sequences, adapters, True, runtime.device, inputs, spans)
    ids, positions = batch.ids[0], batch.positions
    assert positions is not None  # sequences that are packed have them
    reached = cached_hidden_at_layer(runtime, sequences, prefixes, spans, start) if start else None
    runtime.threads.set_for_pass(runtime.base, sum(batch.lengths))
    hidden = decoder.final_hidden(
        ids,
        positions[0],
        lay_out_spans(spans, prefixes),
        batch.route,
        batch.output_positions,
        again,
        cached_hidden=reached,
    )
    return hidden, batch


def _model_logits(
    runtime: BaseRuntime,
    sequences: Sequence[TokenizedPair],
    adapters: Sequence[BankedAdapter | None],
    inputs: dict[str, Tensor] | None = None,
) -> tuple[Float[Tensor, "L V"], PackedBatch]:
    """The logits of the model's own forward pass, where each output token stands."""
    batch = pack_sequences(
        sequences, adapters, is_packable(runtime.base.architecture), runtime.device, inputs
    )
    runtime.threads.set_for_pass(runtime.base, sum(batch.lengths))
    extra: dict[str, Any] = (
        {"attention_mask": batch.mask} if batch.positions is None else {"position_ids": batch.positions}
    )
    if batch.positions is not None and has_packed_attention(runtime.model):
        extra["packing"] = choose_packed_layout(batch.lengths, runtime.device)
    with runtime.bank.routed(batch.route):
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
    """Log-probabilities of each output's tokens, without gradients; one step per forward pass."""
    logprobs_of_outputs: list[Tensor] = []
    for run in split_by_tokens(count_pass_tokens(runtime, sequences, adapters), runtime.token_budget):
        chosen = [sequences[i] for i in run]
        with torch.no_grad():
            logprobs, _ = compute_token_logprobs(runtime, chosen, [adapters[i] for i in run])
        logprobs_of_outputs.extend(logprobs.cpu().split([len(s.output) for s in chosen]))
        yield None
    return logprobs_of_outputs
