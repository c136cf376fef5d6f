"""Adapter names and references to their versions."""

import unicodedata
from dataclasses import dataclass

from ouroboros.domain.checks import validate
from ouroboros.domain.errors import InvalidName
from ouroboros.domain.limits import MAX_NAME
from ouroboros.domain.result import Result

HEAD = "head"

AUTO_ADAPTER = "auto"
"""Stands for the adapter that knows the prompt's task, or for the base if none does."""


@dataclass(frozen=True, slots=True, order=True)
class AdapterId:
    """An adapter's name, usually its task's; unique within a store.

    Any printable text of at most 128 characters without "@", which separates the version.
    A name never becomes part of a path.
    """

    name: str

    def __str__(self) -> str:
        return self.name

    def validate(self) -> Result["AdapterId"]:
        return validate(self, self.check)

    def check(self) -> None:
        """Raises `InvalidName` if the name is empty, too long, reserved, or not normal text."""
        name = self.name
        if not isinstance(name, str) or not name.strip():
            raise InvalidName("An adapter's name is empty.", hint='Give a task name, like "tickets".')
        if len(name) > MAX_NAME:
            raise InvalidName(
                f"The name is {len(name)} characters long.", hint=f"At most {MAX_NAME} are allowed."
            )
        if name != name.strip() or unicodedata.normalize("NFC", name) != name:
            raise InvalidName(
                f"{name!r} has surrounding blanks or is not normalised text (NFC).",
                hint=f"Use {unicodedata.normalize('NFC', name.strip())!r}.",
            )
        if name == AUTO_ADAPTER:
            raise InvalidName(
                f'"{name}" stands for whichever adapter knows the task.', hint="Choose another name."
            )
        bad = [c for c in name if c == "@" or not c.isprintable()]
        if bad:
            raise InvalidName(
                f"The name holds {bad[0]!r}.",
                hint='Use printable characters only; "@" separates a name from a version.',
            )


@dataclass(frozen=True, slots=True)
class VersionRef:
    """A reference to a version: `tickets` and `tickets@head` are the head, `tickets@7` is number 7."""

    adapter: AdapterId
    number: int | None = None

    def __str__(self) -> str:
        return f"{self.adapter}@{self.number or HEAD}"

    @classmethod
    def parse(cls, text: "str | AdapterId | VersionRef") -> "VersionRef":
        """Read `name`, `name@head` or `name@7`; raises `InvalidName`."""
        if isinstance(text, VersionRef):
            return text
        name, _, version = str(text).partition("@")
        adapter = AdapterId(name)
        adapter.check()
        if version in ("", HEAD):
            return cls(adapter)
        if not version.isascii() or not version.isdigit() or int(version) < 1 or len(version) > 9:
            raise InvalidName(
                f"{version!r} is not a version.", hint=f"Use {name}@head or {name}@1, {name}@2, ..."
            )
        return cls(adapter, int(version))
