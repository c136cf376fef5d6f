"""Every limit on a text or a count that comes from outside, in one table. docs/limits.md explains it."""

from ouroboros.domain.errors import InvalidExample

MAX_NAME = 128
MAX_DESCRIPTION = 10_000
MAX_USER = 256
MAX_KEY = 256
MAX_TEXT = 100_000
MAX_LINE = 16 * 2**20
MAX_DATA = 2**30
MAX_STDIN = 16 * 2**20
MAX_IMPORT = 512 * 2**20
MAX_RANK = 256
MAX_WEIGHT = 1000
MAX_SEED = 2**63 - 1
MAX_NEW_TOKENS = 1_000_000
MAX_EVENT = 2**63 - 1

LIMITS: dict[str, tuple[int, str]] = {
    "an adapter's name": (MAX_NAME, "characters"),
    "an adapter's description": (MAX_DESCRIPTION, "characters"),
    "the user of a judgement": (MAX_USER, "characters"),
    "the key of a judgement": (MAX_KEY, "characters"),
    "a prompt, an answer or a comment of a judgement": (MAX_TEXT, "characters"),
    "one line of a file of examples or judgements": (MAX_LINE, "bytes"),
    "a file of examples or judgements, decompressed": (MAX_DATA, "bytes"),
    "standard input": (MAX_STDIN, "characters"),
    "the weight file of an import that is shrunk": (MAX_IMPORT, "bytes"),
    "the rank of an adapter": (MAX_RANK, ""),
    "the weight of an example": (MAX_WEIGHT, ""),
    "a seed": (MAX_SEED, ""),
    "the tokens of one answer": (MAX_NEW_TOKENS, "tokens"),
    "an event's number": (MAX_EVENT, ""),
}
"""What is limited: the limit and its unit. A row of docs/limits.md each."""


def check_length(what: str, text: object, limit: int) -> None:
    """Refuse what is not text, cannot be written as UTF-8, or is longer than `limit` characters."""
    if not isinstance(text, str):
        raise InvalidExample(f"The {what} is {type(text).__name__}.", hint="Give text.")
    if len(text) > limit:
        raise InvalidExample(
            f"The {what} is {len(text):,} characters long.", hint=f"At most {limit:,} are allowed."
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidExample(
            f"The {what} holds a lone surrogate and is not valid Unicode.", hint="Re-encode it as UTF-8."
        ) from None
