"""What the sequences of a run attend to before their own tokens: cached prefixes and other sequences."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ouroboros.backend.local.cache.prefix_cache import PrefixKV
from ouroboros.backend.local.decoder.length_groups import LengthGroup
from ouroboros.lora.transfer import to_device


@dataclass(frozen=True)
class SequenceLayout:
    """The sequences that lie end to end in a packed row, and what each of them continues.

    lengths   tokens of each.
    prefixes  the cached keys and values that each continues; empty if none does.
    parents   the earlier sequence of the row that each continues; empty if none does.
    """

    lengths: Sequence[int]
    prefixes: Sequence[PrefixKV | None] = ()
    parents: Sequence[int | None] = ()


@dataclass(frozen=True)
class PrefixBatch:
    """The cached prefixes of a group's N sequences side by side, padded on the left to P tokens.

    Each ends where the run's own tokens begin, so that one concatenation joins the two.

    keys_values  [L, 2, kv_heads * N, P, D]
    lengths      tokens of each prefix.
    """

    keys_values: Float[Tensor, "L 2 M P D"]
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, group: LengthGroup, prefixes: Sequence[PrefixKV | None]) -> "PrefixBatch | None":
        """The prefixes of the group's sequences, None if it has none.

        Sequence i of the run continues after prefixes[i].
        """
        members = [prefixes[i] for i in group.sequences] if prefixes else []
        example = next((prefix for prefix in members if prefix is not None), None)
        if example is None:
            return None
        lengths = tuple(0 if prefix is None else prefix.shape[3] for prefix in members)
        longest = max(lengths)
        layers, _, kv_heads, _, head_dim = example.shape
        keys_values = example.new_zeros(layers, 2, kv_heads, len(members), longest, head_dim)
        for i, (prefix, length) in enumerate(zip(members, lengths, strict=True)):
            if prefix is not None:
                keys_values[:, :, :, i, longest - length :] = prefix
        return cls(keys_values.flatten(2, 3), lengths)

    @property
    def tokens(self) -> int:
        """Tokens of the longest prefix, P."""
        return self.keys_values.shape[3]

    def prepend(
        self, layer: int, k: Float[Tensor, "M W D"], v: Float[Tensor, "M W D"]
    ) -> tuple[Float[Tensor, "M K D"], Float[Tensor, "M K D"]]:
        """One layer's keys and values: the prefixes', then the run's own."""
        keys, values = self.keys_values[layer]
        return torch.cat([keys, k], 1), torch.cat([values, v], 1)


def build_attention_bias(
    group: LengthGroup,
    prefix: PrefixBatch | None,
    kv_heads: int,
    queries_per_key: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Float[Tensor, "_ Q K"] | None:
    """What is added to the attention scores of a group: 0 where a query may attend, else -inf.

    One table for all sequences if their prefixes and offsets are equal. None where each sequence has
    its own tokens alone: that is the causal mask.
    """
    if prefix is None and group.keys is group.queries:
        return None
    lengths = (0,) * len(group.sequences) if prefix is None else prefix.lengths
    distinct = list(zip(lengths, group.offsets, strict=True))
    if len(set(distinct)) == 1:
        distinct = distinct[:1]
    # Keys count from the run's first one on; those of a cached prefix, which end there, are negative.
    cached, offsets = torch.tensor(distinct).T[:, :, None, None]
    padded = 0 if prefix is None else prefix.tokens
    keys = torch.arange(-padded, group.keys.width)
    queries = torch.arange(group.queries.width).repeat_interleave(queries_per_key)[:, None]
    allowed = (keys >= -cached) & (keys <= offsets + queries)
    bias = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, float("-inf"))
    per_matrix = bias if len(bias) == 1 else bias.repeat(kv_heads, 1, 1)
    return to_device(per_matrix, device)
