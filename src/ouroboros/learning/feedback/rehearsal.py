"""The short training that works judgements in where the careful update does not serve.

An adapter that knows little leads nowhere but to what it has been told: its factors have no room to
tell two answers apart by a step that keeps off all it knows. And many judgements at once pull on all
of it. In both cases what is known is repeated instead, beside plain exchanges that stay as the base has
them (docs/decisions/0004-one-correction.md).
"""

import random
from collections.abc import Collection
from dataclasses import replace

from ouroboros.domain.config import AdapterConfig, TrainingConfig, UpdateConfig
from ouroboros.domain.data import Prompt, Row

FEW = 16
"""An adapter that knows no more prompts than these is young."""

MANY = 8
"""Judgements from this number on are a burst."""

REPEATED = 64
"""Known rows to choose from at most: a step takes a few, and there are few steps."""

GENTLE = 0.25
"""Share of the training rate: at the full one plain exchanges change more."""

_KNOWN, _PLAIN = 8, 4
"""Known rows and plain exchanges in each step, at least."""


def needs_rehearsal(judged: int, known: int, whole: bool = True) -> bool:
    """Whether so many judged rows are learned by repeating some of so many known ones.

    Never where these are few and not the `whole` of what the adapter knows: the rest would be lost.
    """
    return whole if known <= FEW else judged >= MANY


def choose_rows(
    known: Collection[Row], judged: Collection[Prompt], count: int, seed: int
) -> tuple[Row, ...]:
    """A choice of what is known, less what has just been judged: to be repeated, or protected."""
    left = [row for row in known if row.prompt not in judged]
    return tuple(random.Random(seed).sample(left, min(count, len(left))))


def rehearsal_config(rows: int, seed: int, update: UpdateConfig) -> TrainingConfig:
    """Steps on all judged rows, each with some that are known, until all of a step are learned."""
    return TrainingConfig(
        batch_size=rows,
        epochs=update.max_steps,
        incremental_update=True,
        seed=seed,
        warmup=0.0,
        replay=max(_KNOWN / rows, 1.0),
        anchors=max(_PLAIN / rows, 0.5),
        caution=1.0,
        until=update.likely,
    )


def rehearsal_rate(config: AdapterConfig) -> AdapterConfig:
    """The adapter's settings at the rate of a rehearsal."""
    return replace(config, learning_rate=GENTLE * config.learning_rate)
