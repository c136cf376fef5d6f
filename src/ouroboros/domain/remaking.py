"""Versions made again: to see that it can be done, or without what was to be forgotten."""

from dataclasses import dataclass

from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Version


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A version made again from its parents and the journal, and held against the stored one.

    distance  norm of the difference of the two updates, as a share of the layers' norm; 0 if they are
              `identical`, equal to the last bit.
    differs   what of the software differs now from when the version was made, like "torch 2.6 -> 2.7".
    """

    version: Version
    digest: str
    distance: float
    differs: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        return self.digest == self.version.digest


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What forgetting came to.

    events    erased, by adapter.
    removed   versions that stood on them, and all that came from those.
    remade    versions that were served, in their order, and the new ones in their place; None where
              nothing was left to learn, or the gate refused what was.
    """

    events: dict[AdapterId, tuple[int, ...]]
    removed: tuple[VersionRef, ...] = ()
    remade: tuple[tuple[VersionRef, VersionRef | None], ...] = ()
