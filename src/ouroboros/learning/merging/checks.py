"""Checks of what is merged, and of the result."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from ouroboros.domain.data import Prompt, TrainingExample
from ouroboros.domain.errors import InvalidConfig, InvalidInput
from ouroboros.domain.merging import MergeRecipe, MergeStrategy
from ouroboros.domain.names import AdapterId
from ouroboros.domain.probe_scores import ProbeAnswer
from ouroboros.domain.records import Version
from ouroboros.domain.verdict import Check, CheckName, ExampleRef, Verdict
from ouroboros.learning.replay.knowledge import Knowledge
from ouroboros.learning.replay.probes import Probe, ProbeKind

_NO_EVENT = 0
"""The event number of probes that are in no journal."""


def check_distinct(parents: Sequence[Version]) -> None:
    """Refuse the same version twice: to count it double, give it a weight."""
    for i, version in enumerate(parents):
        if version.ref in [v.ref for v in parents[:i]]:
            raise InvalidConfig(
                f"{version.ref} is named twice.", hint="Name each adapter once, and weigh it."
            )


def check_pins_agree(parents: Sequence[tuple[AdapterId, Knowledge]]) -> None:
    """Refuse two pinned answers to one prompt: one adapter cannot keep both."""
    pinned: dict[Prompt, tuple[str, AdapterId]] = {}
    for adapter, known in parents:
        for pin in known.pins:
            output, other = pinned.setdefault(pin.input, (pin.output, adapter))
            if output != pin.output:
                raise InvalidInput(
                    f"{other} and {adapter} pin different answers to one prompt.",
                    hint=f"Unpin one of them, see: ouroboros pin {adapter}",
                )


def make_given_probes(examples: Sequence[TrainingExample]) -> list[Probe]:
    """Make probes for one merge alone."""
    return [Probe(ExampleRef(_NO_EVENT, row), e, ProbeKind.GIVEN) for row, e in enumerate(examples)]


def find_best_parents(
    probes: Sequence[Probe], answers: Mapping[str, Mapping[ExampleRef, ProbeAnswer]]
) -> dict[str, str]:
    """Map each adapter to the parent that answers its probes best; "" stands for the given probes.

    Right answers decide, then their mean likelihood, then the order of the parents.
    """
    groups: defaultdict[str, list[ExampleRef]] = defaultdict(list)
    for probe in probes:
        groups[probe.ref.adapter].append(probe.ref)

    def rank_parent(parent: str, places: Sequence[ExampleRef]) -> tuple[int, float]:
        parent_answers = [answers[parent][place] for place in places]
        return sum(a.said for a in parent_answers), fmean(a.likelihood for a in parent_answers)

    return {
        name: max(answers, key=lambda parent: rank_parent(parent, places))
        for name, places in groups.items()
    }


def fill_weights(recipe: MergeRecipe, accuracies: Sequence[float]) -> MergeRecipe:
    """Weigh each parent by its accuracy, if a weighted recipe has no weights and it is known."""
    if recipe.strategy is not MergeStrategy.WEIGHTED or recipe.weights or not any(accuracies):
        return recipe
    return replace(recipe, weights=tuple(accuracies))


def explain_failed_merge(merged: str, verdict: Verdict) -> str:
    """What to do instead of a merge that fell below its parents, with the numbers; "" if it did not."""
    if verdict.promoted:
        return ""
    fell = [_describe_fall(merged, check) for check in verdict.failed_checks if check.beside]
    rest = dict.fromkeys(check.name.value for check in verdict.failed_checks if not check.beside)
    if fell:
        rest.pop(CheckName.CLASS.value, None)  # a part of the same fall
    failed = [f"{merged} failed: {', '.join(rest)}"] if rest else []
    return (
        f"Merging did not help: {'; '.join(fell + failed)}. Route instead: keep the adapters "
        "separate and ask the one that knows the task, by name or with `ouroboros generate auto`."
    )


def _describe_fall(merged: str, check: Check) -> str:
    """Like: of 10 probes tickets@2 answers 9 right, both 4."""
    answers, likelihood = check.answers, check.likelihood
    assert answers is not None and likelihood is not None
    before, after = (round(share * answers.rows) for share in (answers.before, answers.after))
    words = f"of {answers.rows} probes {check.beside} gets {before} right and {merged} {after}"
    if answers.is_significant_fall(0.0) or likelihood.mean >= 0:
        return words
    return f"{words}, with right tokens {-100 * likelihood.mean:.1f} points less likely"
