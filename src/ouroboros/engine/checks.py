"""What verbs and their collaborators check before and between their steps."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ouroboros.data.conversations import parse_prompt
from ouroboros.data.examples import read_examples
from ouroboros.data.sources import Source
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.checks import suggest_nearest
from ouroboros.domain.config import TrainingConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import InvalidConfig, InvalidExample


async def load_examples(source: Source) -> Sequence[TrainingExample]:
    """Read examples from whatever holds them; those that are examples already stay as they are.

    Raises as `read_examples` does.
    """
    if isinstance(source, list | tuple):
        examples = [item for item in source if isinstance(item, TrainingExample)]
        if len(examples) == len(source):
            return examples
    return await asyncio.to_thread(read_examples, source)


def read_prompt(prompt: Any) -> Any:
    """Convert a list of messages, as dicts or as `Message`, to a prompt; leave others as they are."""
    return parse_prompt(prompt) if isinstance(prompt, list) else prompt


def resolve_training(config: object, examples: int) -> TrainingConfig:
    """Return the config to train with: `auto`'s for None, and for a dict `auto`'s with these fields.

    Raises:
        InvalidConfig: a field is unknown or out of range, or `config` is something else.
    """
    if isinstance(config, Mapping):
        known = [field.name for field in fields(TrainingConfig)]
        for name in config:
            if name not in known:
                hint = suggest_nearest(str(name), known)
                raise InvalidConfig(f"A training has no field {str(name)[:80]!r}.", hint=hint)
        config = TrainingConfig.auto(examples, **config)
    config = TrainingConfig.auto(examples) if config is None else config
    if not isinstance(config, TrainingConfig):
        raise InvalidConfig(
            f"The config is of the type {type(config).__name__}.", hint="Like: TrainingConfig(epochs=2)"
        )
    config.check()
    return config


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
