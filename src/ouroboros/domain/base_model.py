"""The frozen base model as plain values: its fingerprint and its dimensions."""

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
        """Return the text that names of stored things are hashed from.

        It is frozen: with another text, what was stored under the old name is not found again.
        """
        return (
            f"Fingerprint(config={self.config!r}, tokenizer={self.tokenizer!r},"
            f" template={self.template!r}, weights={self.weights!r}, vocabulary={self.vocabulary!r})"
        )

    def require_equal(self, other: "Fingerprint", what: str) -> None:
        """Raise `BaseMismatch` unless `other`, the fingerprint of the base of `what`, equals this."""
        if self == other:
            return
        raise BaseMismatch(
            f"{what} was made for another base model: {'; '.join(self._differences(other))}.",
            hint="Load the base it was made for (--model), or create a new adapter on this one.",
        )

    def _differences(self, other: "Fingerprint") -> list[str]:
        differences = []
        if self.config != other.config:
            differences.append("its architecture or configuration differs")
        if self.tokenizer != other.tokenizer:
            differences.append(
                f"its tokenizer differs ({other.vocabulary} entries there, {self.vocabulary} here)"
            )
        if self.template != other.template:
            differences.append("its chat template differs")
        if self.weights != other.weights:
            differences.append("its weights differ")
        return differences or [
            f"it has {other.vocabulary} vocabulary entries, this one {self.vocabulary}"
        ]


@dataclass(frozen=True, slots=True)
class LinearShape:
    """One linear layer of the base: dotted module path, input width I and output width O."""

    path: str
    inputs: int
    outputs: int

    @property
    def name(self) -> str:
        """The last part of the path, as `target_modules` names it: "q_proj"."""
        return self.path.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The identity and the dimensions of the base model, as plain values without a tensor.

    name               as the user gave it: a name of the hub, or a folder.
    architecture       the class of the model, as `transformers` names it.
    width              D, the size of a hidden state.
    layers, heads      how many decoder layers it has, and attention heads in each.
    context            the most tokens of a prompt and its answer together.
    parameters         how many it has.
    linears            the linear layers that an adapter can target.
    invocation_tokens  the token ids that every prompt ends with, right before the answer; empty where
                       prompts have no common end.
    has_dated_prompts  the chat template writes today's date into prompts.
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
    invocation_tokens: tuple[int, ...] = ()
    has_dated_prompts: bool = False
