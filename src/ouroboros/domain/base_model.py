"""What the rest of the program knows about the frozen base model: its fingerprint and its shape."""

from dataclasses import dataclass

from ouroboros.domain.errors import BaseMismatch


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Identifies a base: digests of its config, tokenizer, chat template and weights.

    Two bases with equal fingerprints give the same logits for the same prompt.
    """

    config: str
    tokenizer: str
    template: str
    weights: str
    vocabulary: int

    def to_text(self) -> str:
        """The text from which names of stored things are hashed. It is frozen: another text, and what
        was stored under the old name is not found again."""
        return (
            f"Fingerprint(config={self.config!r}, tokenizer={self.tokenizer!r},"
            f" template={self.template!r}, weights={self.weights!r}, vocabulary={self.vocabulary!r})"
        )

    def require(self, other: "Fingerprint", what: str) -> None:
        """Raise `BaseMismatch`, in plain words, unless `other`, the base of `what`, is this one."""
        if self == other:
            return
        raise BaseMismatch(
            f"{what} was made for another base model: {'; '.join(self._differences(other))}.",
            hint="Load the base it was made for (--model), or create a new adapter on this one.",
        )

    def _differences(self, other: "Fingerprint") -> list[str]:
        found = []
        if self.config != other.config:
            found.append("its architecture or configuration differs")
        if self.tokenizer != other.tokenizer:
            found.append(
                f"its tokenizer differs ({other.vocabulary} entries there, {self.vocabulary} here)"
            )
        if self.template != other.template:
            found.append("its chat template differs")
        if self.weights != other.weights:
            found.append("its weights differ")
        return found or [f"it has {other.vocabulary} vocabulary entries, this one {self.vocabulary}"]


@dataclass(frozen=True, slots=True)
class LinearShape:
    """One linear layer of the base: dotted module path, input width I and output width O."""

    path: str
    inputs: int
    outputs: int

    @property
    def name(self) -> str:
        """The last part of the path, which is what `target_modules` names."""
        return self.path.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The base as a value: who it is and how large, without a tensor in sight.

    `opening` are the token ids that every prompt ends with, after which the answer starts; none where
    prompts have no common end.
    """

    name: str
    fingerprint: Fingerprint
    architecture: str
    width: int
    layers: int
    context: int
    parameters: int
    linears: tuple[LinearShape, ...]
    heads: int = 1
    opening: tuple[int, ...] = ()
