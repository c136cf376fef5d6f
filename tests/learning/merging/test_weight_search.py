"""Tuning weights by trial."""

import pytest

from ouroboros.learning.merging.weight_search import search_weights


def tune_weights(parents, worth):
    """The best weights, and how many were tried."""
    search = search_weights(parents)
    weights, trials = next(search), 1
    while True:
        try:
            weights = search.send(worth(weights))
        except StopIteration as stopped:
            return stopped.value, trials
        trials += 1


@pytest.mark.parametrize("target", [(1.0, 1.0), (0.7, 0.4), (1.3, 0.7, 1.0), (0.4, -0.05)])
def test_tuning_comes_near_the_best_and_never_below_the_plain_sum(target):
    def worth(weights):
        return -sum((w - t) ** 2 for w, t in zip(weights, target, strict=True))

    weights, trials = tune_weights(len(target), worth)
    assert worth(weights) >= max(worth((1.0,) * len(target)), -0.08 * len(target))
    assert trials <= 3 + 4 * len(target)


def test_where_nothing_matters_the_plain_sum_stays():
    assert tune_weights(3, lambda weights: 0.5)[0] == (1.0, 1.0, 1.0)
