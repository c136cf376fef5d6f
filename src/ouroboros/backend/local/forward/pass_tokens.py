"""How many tokens a pass runs: a beginning that its sequences share counts once."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence

from ouroboros.backend.local.forward.prefix_reuse import (
    CACHED_TOKENS_PER_RUN_TOKEN,
    select_base_prefix,
    select_shareable,
)
from ouroboros.backend.local.forward.shared_prefixes import (
    MIN_SAVED_TOKENS,
    TokenIds,
    count_common_tokens,
)
from ouroboros.backend.local.model.load import BaseRuntime
from ouroboros.backend.local.model.tokenizer import TokenizedPair
from ouroboros.lora.bank import BankedAdapter


class PassTokens:
    """Counts the tokens of a pass while sequences are added to it.

    Base-only prefixes count little, or in full with `counts_cached`. They count the same whether they
    are cached or not: the sequences that share a pass decide its last bits, which must not depend on
    the cache.
    """

    def __init__(self, runtime: BaseRuntime, counts_cached: bool = False) -> None:
        self._runtime = runtime
        self._cached_per_run = 1 if counts_cached else CACHED_TOKENS_PER_RUN_TOKEN
        self._beginnings: dict[BankedAdapter | None, list[TokenIds]] = defaultdict(list)

    def add(self, sequence: TokenizedPair, adapter: BankedAdapter | None) -> int:
        """Add a sequence to the pass; returns how many more tokens the pass runs."""
        if self._runtime.decoder is None:
            return len(sequence)
        prefix_tokens = len(select_base_prefix(sequence, adapter))
        tokens = len(sequence) - prefix_tokens + prefix_tokens // self._cached_per_run
        # Of all sequences in order, a neighbour has the most tokens in common with this one.
        beginning, others = select_shareable(sequence, adapter), self._beginnings[adapter]
        index = bisect_left(others, beginning)
        shared = _count_shared(beginning, others[max(index - 1, 0) : index + 1])
        others.insert(index, beginning)
        return tokens - shared


def total_pass_tokens(
    runtime: BaseRuntime, sequences: Sequence[TokenizedPair], adapter: BankedAdapter | None
) -> int:
    """Count the tokens of a pass over all of these sequences."""
    pass_tokens = PassTokens(runtime)
    return sum(pass_tokens.add(sequence, adapter) for sequence in sequences)


def least_pass_tokens(
    runtime: BaseRuntime, sequences: Sequence[TokenizedPair], adapter: BankedAdapter | None
) -> list[int]:
    """Count the tokens that each sequence adds to a pass which has all others."""
    counts = [PassTokens(runtime).add(sequence, adapter) for sequence in sequences]
    if runtime.decoder is None:
        return counts
    beginnings = [select_shareable(sequence, adapter) for sequence in sequences]
    order = sorted(range(len(sequences)), key=beginnings.__getitem__)
    for place, i in enumerate(order):
        neighbours = order[max(place - 1, 0) : place] + order[place + 1 : place + 2]
        counts[i] -= _count_shared(beginnings[i], [beginnings[j] for j in neighbours])
    return counts


def split_into_passes(
    runtime: BaseRuntime, sequences: Sequence[TokenizedPair], adapters: Sequence[BankedAdapter | None]
) -> Iterator[list[int]]:
    """Yields runs of consecutive sequences whose passes have at most `runtime.token_budget` tokens.

    A sequence that exceeds the budget gets a pass of its own.
    """
    budget, run, total = runtime.token_budget, list[int](), 0
    pass_tokens = PassTokens(runtime)
    for i, (sequence, adapter) in enumerate(zip(sequences, adapters, strict=True)):
        tokens = pass_tokens.add(sequence, adapter)
        if run and total + tokens > budget:
            yield run
            run, total, pass_tokens = [], 0, PassTokens(runtime)
            tokens = pass_tokens.add(sequence, adapter)
        run.append(i)
        total += tokens
    if run:
        yield run


def _count_shared(beginning: TokenIds, others: Sequence[TokenIds]) -> int:
    common = max((count_common_tokens([beginning, other]) for other in others), default=0)
    return common if common >= MIN_SAVED_TOKENS else 0
