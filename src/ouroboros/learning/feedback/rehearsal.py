"""Rehearsal: a short training that applies feedback where the null-space update does not work.

An adapter that knows little offers no room for a null-space update: its factors hardly span more than
what it was taught, so a step that avoids all known inputs cannot separate two answers. And many feedback
events at once affect everything that the adapter knows. In both cases training repeats known rows
instead, next to plain exchanges that stay as the base answers them
(docs/decisions/0004-one-correction.md).
"""

import random
from collections.abc import Collection
from dataclasses import replace

from ouroboros.domain.config import AdapterConfig, TrainingConfig, UpdateConfig
from ouroboros.domain.data import Prompt, Row

FEW_PROMPTS = 16
"""An adapter that knows at most this many prompts always rehearses."""

BURST = 8
"""Feedback rows in one update from which on any adapter rehearses."""

MAX_REHEARSED = 64
"""Known rows to sample at most: each step uses a few, and there are few steps."""

RATE_SHARE = 0.25
"""Share of the learning rate of a training: at the full rate, plain exchanges change more."""

_MIN_KNOWN_PER_STEP, _MIN_ANCHORS_PER_STEP = 8, 4


def needs_rehearsal(feedback_rows: int, known_prompts: int, complete: bool = True) -> bool:
    """Whether an update of this many feedback rows has to repeat some of this many known prompts.

    An adapter with few known prompts rehearses only if they are the `complete` knowledge of the adapter:
    otherwise it would lose what is not among them.
    """
    return complete if known_prompts <= FEW_PROMPTS else feedback_rows >= BURST


def sample_known_rows(
    known: Collection[Row], excluded: Collection[Prompt], count: int, seed: int
) -> tuple[Row, ...]:
    """Sample at most `count` known rows to repeat or to protect, without the `excluded` prompts."""
    candidates = [row for row in known if row.prompt not in excluded]
    return tuple(random.Random(seed).sample(candidates, min(count, len(candidates))))


def rehearsal_config(rows: int, seed: int, update: UpdateConfig) -> TrainingConfig:
    """The training config of a rehearsal.

    Every step trains all feedback rows together with known ones, until all of them are learned.
    """
    return TrainingConfig(
        batch_size=rows,
        epochs=update.max_steps,
        incremental_update=True,
        seed=seed,
        warmup=0.0,
        replay=max(_MIN_KNOWN_PER_STEP / rows, 1.0),
        anchors=max(_MIN_ANCHORS_PER_STEP / rows, 0.5),
        caution=1.0,
        until=update.likely,
    )


def rehearsal_rate(config: AdapterConfig) -> AdapterConfig:
    """The adapter's config with the lower learning rate of a rehearsal."""
    return replace(config, learning_rate=RATE_SHARE * config.learning_rate)
