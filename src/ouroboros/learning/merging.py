"""What may be merged, and whether it was worth it."""

from collections.abc import Mapping, Sequence

from ouroboros.domain.errors import InvalidConfig
from ouroboros.domain.records import Version


def check_distinct(parents: Sequence[Version]) -> None:
    """Refuse the same version twice: it would only count double, which a weight says plainly."""
    for i, version in enumerate(parents):
        if version.ref in [v.ref for v in parents[:i]]:
            raise InvalidConfig(
                f"{version.ref} is named twice.", hint="Name each adapter once, and weigh it."
            )


def merge_advice(merged: float, parents: Mapping[str, float]) -> str:
    """Advice when one parent alone answers the probes better than the merged adapter; "" otherwise."""
    if not parents:
        return ""
    best = max(parents, key=lambda parent: parents[parent])
    if merged >= parents[best]:
        return ""
    return (
        f"Merging did not help: {best} alone answers {parents[best]:.0%} of the probes, the merged "
        f"adapter {merged:.0%}. Keep the adapters apart, and ask the one that knows the task."
    )
