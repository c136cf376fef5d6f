"""What verbs and their collaborators check before and between their steps."""

from collections.abc import Sequence

from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import InvalidExample


def check_examples(examples: Sequence[TrainingExample], *, may_be_empty: bool = False) -> None:
    """Raise `InvalidExample`, naming the first invalid example, unless all are valid.

    Outputs `may_be_empty` where answers are compared with them: an empty answer can have been right.
    """
    if not examples:
        raise InvalidExample("There are no examples.", hint="Give at least one.")
    for i, example in enumerate(examples, start=1):
        try:
            example.check(may_be_empty=may_be_empty)
        except InvalidExample as error:
            raise InvalidExample(f"Example {i}: {error.message}", hint=error.hint) from None


def raise_if_cancelled(cancel: CancellationToken | None) -> None:
    """Raise `Cancelled` if there is a token and it has been cancelled."""
    if cancel is not None:
        cancel.raise_if_cancelled()
