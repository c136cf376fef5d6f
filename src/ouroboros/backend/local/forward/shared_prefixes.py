"""Which beginnings several sequences of a pass share, so that the pass runs their tokens once.

Under one adapter the hidden states of a token depend on the tokens before it alone. Where sequences
begin alike (a chat template, a system prompt, the prompt of a pair of answers), those of the common
beginning are the same numbers. A pass runs it as a span of its own, and the other tokens of each
sequence attend to that span (as in PrefixGrouper, arXiv 2506.05433). The derivative of a shared key or
value is the sum over all sequences that use it.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

MIN_SAVED_TOKENS = 16
"""Tokens that a further span must save: its sequences attend to it by wider, masked products."""

MIN_SAVED_SHARE = 1 / 16
"""The share of its tokens that a pass must save; else it runs whole sequences."""

TokenIds = tuple[int, ...]


@dataclass(frozen=True)
class PackedSpan:
    """Tokens start..stop of a sequence, which a pass runs in one piece.

    sequence  whose tokens they are; for a shared span, the first of the sequences that begin with them.
    parent    the span of the pass that has the tokens before `start`; None if no span has.
    uses      the number of sequences that have these tokens in common.
    """

    sequence: int
    start: int
    stop: int
    parent: int | None = None
    uses: int = 1

    def __len__(self) -> int:
        return self.stop - self.start


def share_prefixes(
    tokens: Sequence[TokenIds], beginnings: Sequence[int], adapters: Sequence[Hashable]
) -> list[PackedSpan]:
    """The spans of a pass over these sequences, each after the span that it continues.

    Of sequence i the first beginnings[i] tokens may be shared with sequences of the same adapter; the
    rest is the last of its spans. The last spans are in the order of the sequences.
    """
    # 1. The shared spans of each sequence, from the first token on.
    by_adapter: dict[Hashable, list[int]] = {}
    for i, (adapter, shareable) in enumerate(zip(adapters, beginnings, strict=True)):
        if shareable:
            by_adapter.setdefault(adapter, []).append(i)
    shared: list[list[tuple[int, int, int, int]]] = [[] for _ in tokens]
    for members in by_adapter.values():
        _collect_shared(tokens, beginnings, members, shared)

    # 2. Each span once, before the first that continues it.
    spans: list[PackedSpan] = []
    index_of: dict[tuple[int, int, int, int], int] = {}
    for i, chain in enumerate(shared):
        parent, start = None, 0
        for first, start, stop, uses in chain:
            key = (first, start, stop, uses)
            if key not in index_of:
                index_of[key] = len(spans)
                spans.append(PackedSpan(first, start, stop, parent, uses))
            parent, start = index_of[key], stop
        spans.append(PackedSpan(i, start, len(tokens[i]), parent))

    # 3. Whole sequences, if all spans together save little.
    total = sum(map(len, tokens))
    if total - sum(map(len, spans)) < MIN_SAVED_SHARE * total:
        return [PackedSpan(i, 0, len(sequence)) for i, sequence in enumerate(tokens)]
    return spans


def _collect_shared(
    tokens: Sequence[TokenIds],
    beginnings: Sequence[int],
    members: list[int],
    shared: list[list[tuple[int, int, int, int]]],
) -> None:
    """Append the shared spans (first member, start, stop, uses) of these sequences to `shared`.

    It walks down the tree of their prefixes, and leaves out the branches that save too little.
    """
    branches = [(members, 0)]
    while branches:
        branch, start = branches.pop()
        stop = count_common_tokens([tokens[i][: beginnings[i]] for i in branch])
        if (len(branch) - 1) * (stop - start) >= MIN_SAVED_TOKENS:
            for i in branch:
                shared[i].append((branch[0], start, stop, len(branch)))
            start = stop
        by_next_token: dict[int, list[int]] = {}
        for i in branch:
            if beginnings[i] > stop:
                by_next_token.setdefault(tokens[i][stop], []).append(i)
        branches.extend((b, start) for b in by_next_token.values() if len(b) > 1)


def count_common_tokens(tokens: Sequence[TokenIds]) -> int:
    """How many tokens all of these begin with: as many as the first and last in their order."""
    first, last = min(tokens), max(tokens)
    pairs = enumerate(zip(first, last, strict=False))
    return next((i for i, (a, b) in pairs if a != b), len(first))
