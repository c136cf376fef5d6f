"""What may be merged, and whether it was worth it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ouroboros.domain.errors import InvalidConfig
from ouroboros.domain.examples import TrainingExample
from ouroboros.domain.merging import MergeRecipe, MergeStrategy
from ouroboros.domain.prompts import Prompt
from ouroboros.domain.records import Version


def check_distinct(parents: Sequence[Version]) -> None:
    """Refuse the same version twice: it would only count double, which a weight says plainly."""
    for i, version in enumerate(parents):
        if version.ref in [v.ref for v in parents[:i]]:
            raise InvalidConfig(
                f"{version.ref} is named twice.", hint="Name each adapter once, and weigh it."
            )


def both(known: Sequence[Sequence[TrainingExample]]) -> tuple[TrainingExample, ...]:
    """What any of several adapters is asked; not what they were taught to answer differently."""
    outputs: dict[Prompt, set[str]] = {}
    for example in (e for examples in known for e in examples):
        outputs.setdefault(example.input, set()).add(example.output)
    return tuple(
        {e.input: e for examples in known for e in examples if len(outputs[e.input]) == 1}.values()
    )


def weigh(recipe: MergeRecipe, accuracies: Sequence[float]) -> MergeRecipe:
    """A weighted recipe without weights weighs each parent by its accuracy, where that is known."""
    if recipe.strategy is not MergeStrategy.WEIGHTED or recipe.weights or not any(accuracies):
        return recipe
    return replace(recipe, weights=tuple(accuracies))


def merge_advice(merged: float, parents: Mapping[str, float]) -> str:
    """Advice when one parent alone answers the probes better than the merged adapter; "" otherwise."""
    if not parents:
        return ""
    best = max(parents, key=lambda parent: parents[parent])
    if merged >= parents[best]:
        return ""
    return (
        f"Merging did not help: {best} alone answers {parents[best]:.0%} of the probes, the merged "
        f"adapter {merged:.0%}. Route instead: keep them apart, and `ouroboros generate auto` asks the "
        "one that knows the task."
    )
