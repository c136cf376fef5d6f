"""What a model is asked: plain text, or a conversation."""

from dataclasses import dataclass
from typing import TypeAlias

from ouroboros.domain.errors import InvalidExample

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


Prompt: TypeAlias = str | tuple[Message, ...]
"""Plain text stands for a single user turn."""


def messages_of(prompt: Prompt) -> tuple[Message, ...]:
    """The conversation a prompt stands for."""
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt


def check_text(what: str, text: object) -> None:
    """Refuse text that is missing, blank, or cannot be written as UTF-8."""
    if not isinstance(text, str) or not text.strip():
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
        check_text(f"{what}'s {message.role} turn", message.content)
    if not prompt or prompt[-1].role != "user":
        raise InvalidExample(
            f"The {what} does not end with a user turn.", hint="Let the user speak last."
        )
