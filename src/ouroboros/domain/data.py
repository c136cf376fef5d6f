"""Prompts, training examples and training rows."""

from dataclasses import dataclass, field
from typing import TypeAlias

from ouroboros.domain.checks import check_number, validate
from ouroboros.domain.errors import InvalidConfig, InvalidExample
from ouroboros.domain.limits import MAX_WEIGHT
from ouroboros.domain.losses import Loss, Supervised
from ouroboros.domain.result import Result

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. OpenAI's role `developer` is another name of `system`."""

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role == "developer":
            object.__setattr__(self, "role", "system")


Prompt: TypeAlias = str | tuple[Message, ...]
"""A conversation; plain text is a single user turn."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """Text, or token ids, that the model goes on with as it stands: no chat template is applied."""

    text: str | tuple[int, ...]

    def check(self) -> None:
        """Refuse a text without a character, and ids that are no ids."""
        if isinstance(self.text, str):
            if not self.text:
                raise InvalidExample("The prompt is empty.", hint="Give some text.")
            if any("\ud800" <= c <= "\udfff" for c in self.text):
                raise InvalidExample(
                    "The prompt holds a lone surrogate and is not valid Unicode.",
                    hint="Re-encode it as UTF-8.",
                )
            return
        if not self.text or not all(type(token) is int and token >= 0 for token in self.text):
            raise InvalidExample(
                "The prompt is not a list of token ids.", hint="Give ids of 0 or more, at least one."
            )


def to_messages(prompt: Prompt) -> tuple[Message, ...]:
    """Return a prompt as a conversation."""
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt


def check_text(what: str, text: object, *, may_be_empty: bool = False) -> None:
    """Refuse text that is missing, blank, or cannot be written as UTF-8.

    What a model answered `may_be_empty`: such an answer is one token, the end.
    """
    if text is not None and not isinstance(text, str):
        raise InvalidExample(
            f"The {what} is not a text but a {type(text).__name__}.", hint="Give a text."
        )
    if text is None or not (may_be_empty or text.strip()):
        raise InvalidExample(f"The {what} is empty.", hint="Give some text.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidExample(
            f"The {what} holds a lone surrogate and is not valid Unicode.", hint="Re-encode it as UTF-8."
        ) from None


def check_prompt(what: str, prompt: object) -> None:
    """Refuse a prompt that is blank or whose conversation cannot be answered."""
    if not isinstance(prompt, tuple):
        check_text(what, prompt)
        return
    for message in prompt:
        if not isinstance(message, Message) or message.role not in ROLES:
            raise InvalidExample(
                f"The {what} has a turn that is not a Message with a known role.",
                hint=f"Roles are {', '.join(ROLES)}.",
            )
        is_answer = message.role == "assistant"
        check_text(f"{what}'s {message.role} turn", message.content, may_be_empty=is_answer)
    if not prompt or prompt[-1].role != "user":
        raise InvalidExample(
            f"The {what} does not end with a user turn.", hint="Let the user speak last."
        )


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A prompt and the answer to learn; `weight`, up to 1000, scales the example's share of the loss."""

    input: Prompt
    output: str
    weight: float = 1.0

    def validate(self) -> Result["TrainingExample"]:
        return validate(self, self.check)

    def check(self, *, may_be_empty: bool = False) -> None:
        """Refuse an example that cannot be learned. One to compare answers with `may_be_empty`."""
        check_prompt("input", self.input)
        check_text("output", self.output, may_be_empty=may_be_empty)
        try:
            check_number("weight", self.weight, 1e-6, MAX_WEIGHT)
        except InvalidConfig as error:
            raise InvalidExample(error.message, hint=error.hint) from None


@dataclass(frozen=True, slots=True)
class Row:
    """One training item: a prompt with a wanted `output`, a `rejected` one, or both, and its loss.

    A preference pair has both. A row with `rejected` alone holds an answer known only to be wrong: it
    has no output, so that nothing can train towards that answer by mistake. `weight` scales the row's
    share of its batch. A row is plain data, which a remote backend can be sent.
    """

    prompt: Prompt
    output: str | None
    loss: Loss = field(default_factory=Supervised)
    weight: float = 1.0
    rejected: str | None = None

    @classmethod
    def from_example(cls, example: TrainingExample) -> "Row":
        """Returns the row that trains towards the example's output."""
        return cls(example.input, example.output, weight=example.weight)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The one or two outputs that training reads, the wanted one first."""
        return tuple(text for text in (self.output, self.rejected) if text is not None)

    def check(self) -> None:
        """Raise `InvalidExample` unless the row has the outputs that its loss is defined for."""
        self.loss.check()
        wanted, unwanted = self.output is not None, self.rejected is not None
        if self.loss.uses_pair:
            fits = wanted and unwanted
        else:
            fits = wanted != unwanted and (wanted or self.loss.accepts_rejected_only)
        if not fits:
            raise InvalidExample(
                f"A row with {'an' if wanted else 'no'} output and {'a' if unwanted else 'no'} rejected"
                f" answer cannot be trained with the loss {self.loss.kind}.",
                hint="Pairs need both; other losses take one; supervised training needs the output.",
            )
