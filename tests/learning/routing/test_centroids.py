"""Portraits: a vector for each class, and a measured threshold."""

import numpy as np
import pytest

from ouroboros.domain.names import AdapterId
from ouroboros.learning.routing.centroids import (
    MAX_CLASSES,
    UNREACHABLE,
    TaskCentroids,
    compute_centroids,
    compute_description_centroid,
)
from ouroboros.learning.routing.index import VectorIndex


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def around(centre, count, seed=0, spread=0.3):
    noise = np.random.default_rng(seed).standard_normal((count, len(centre)))
    return unit(centre + spread * noise / len(centre) ** 0.5)


AXES = np.eye(16)
STRANGERS = unit(np.random.default_rng(9).standard_normal((40, 16)))


def test_each_class_has_its_own_vector_near_its_texts():
    texts = np.concatenate([around(AXES[0], 20), around(AXES[1], 10, seed=1)])
    portrait = compute_centroids(texts, ["a"] * 20 + ["b"] * 10, STRANGERS)
    assert (portrait.vectors @ AXES[:2].T).argmax(1).tolist() == [0, 1]
    assert (np.diag(portrait.vectors @ AXES[:2].T) > 0.95).all()


def test_most_of_its_own_kind_is_near_enough_and_strangers_are_not():
    portrait = compute_centroids(around(AXES[0], 100), ["a"] * 100, STRANGERS)
    fresh = around(AXES[0], 400, seed=5) @ portrait.vectors.T
    assert (fresh.max(1) >= portrait.threshold).mean() > 0.8
    assert ((STRANGERS @ portrait.vectors.T).max(1) < portrait.threshold).mean() >= 0.9


def test_where_strangers_are_near_more_of_its_own_is_given_up():
    own_texts, near_by = around(AXES[0], 200, spread=1.0), around(AXES[0], 40, seed=7, spread=3.0)
    alone = compute_centroids(own_texts, ["a"] * 200, STRANGERS * 0).threshold
    beset = compute_centroids(own_texts, ["a"] * 200, near_by).threshold
    known = own_texts @ AXES[0]
    assert alone < beset
    assert (known < alone).mean() == pytest.approx(0.05, abs=0.03)
    assert 0.05 < (known < beset).mean() < 0.2


def test_an_example_does_not_vouch_for_itself():
    scattered = unit(np.random.default_rng(3).standard_normal((30, 16)))
    two_each = compute_centroids(scattered, [str(i // 2) for i in range(30)], STRANGERS[:1] * 0)
    assert two_each.threshold < 0.5


def test_where_each_class_has_one_example_strangers_alone_are_measured():
    scattered = unit(np.random.default_rng(3).standard_normal((8, 16)))
    one_each = compute_centroids(scattered, [str(i) for i in range(8)], STRANGERS)
    near = (STRANGERS @ scattered.T).max(1)
    assert one_each.threshold == pytest.approx(near.mean() + 4 * near.std())


def test_a_single_example_must_be_nearer_than_strangers():
    portrait = compute_centroids(AXES[:1], ["a"], STRANGERS)
    assert 0 < portrait.threshold < 1


def test_many_small_classes_share_one_vector():
    texts = np.concatenate([around(AXES[i % 16], 2 + (i < 3), seed=i) for i in range(MAX_CLASSES + 20)])
    classes = [str(i) for i in range(MAX_CLASSES + 20) for _ in range(2 + (i < 3))]
    assert compute_centroids(texts, classes, STRANGERS).vectors.shape == (MAX_CLASSES, 16)


def test_a_description_is_near_enough_only_if_it_was_given():
    assert compute_description_centroid(AXES[:1], STRANGERS, trusted=False).threshold == UNREACHABLE
    assert (
        compute_description_centroid(AXES[:1], STRANGERS, trusted=True).threshold
        == (STRANGERS @ AXES[0]).max()
    )


@pytest.fixture
def index():
    index = VectorIndex()
    for i in range(5):
        index.put(AdapterId(f"a{i}"), TaskCentroids(AXES[2 * i : 2 * i + 2], 0.5))
    return index


def test_the_nearest_vector_of_an_adapter_counts_and_the_nearest_adapter_comes_first(index):
    text = unit(AXES[3:4] + 0.5 * AXES[8:9])[0]
    matches = index.search(text, 2)
    assert [f.adapter.name for f in matches] == ["a1", "a4"]
    assert [f.similarity for f in matches] == pytest.approx([text[3], text[8]])
    assert [f.sure for f in matches] == [True, False]


def test_search_equals_a_plain_loop():
    random = np.random.default_rng(0)
    portraits = {
        AdapterId(str(i)): TaskCentroids(unit(random.standard_normal((1 + i % 4, 16))), 0.5)
        for i in range(60)
    }
    index = VectorIndex()
    for adapter, portrait in portraits.items():
        index.put(adapter, portrait)
    text = unit(random.standard_normal((1, 16)))[0]
    best = sorted(portraits, key=lambda a: -(portraits[a].vectors @ text).max())
    assert [f.adapter for f in index.search(text, 60)] == best


def test_what_is_dropped_or_replaced_is_found_no_more(index):
    index.search(AXES[3], 1)
    index.drop(AdapterId("a1"))
    index.put(AdapterId("a0"), TaskCentroids(AXES[15:], 0.5))
    assert index.search(AXES[3], 1)[0].similarity == pytest.approx(0.0)
    assert index.search(AXES[15], 1)[0].adapter == AdapterId("a0")
    assert len(index.search(AXES[0], 100)) == 4


def test_search_equals_a_plain_loop_while_adapters_come_change_and_go():
    random = np.random.default_rng(1)
    index, portraits = VectorIndex(), {}
    for _ in range(600):
        adapter = AdapterId(str(random.integers(30)))
        if random.random() < 0.4:
            portraits.pop(adapter, None)
            index.drop(adapter)
        else:
            size = 1 + random.integers(4)
            portraits[adapter] = TaskCentroids(unit(random.standard_normal((size, 16))), random.random())
            index.put(adapter, portraits[adapter])
        text = unit(random.standard_normal((1, 16)))[0]
        best = sorted(portraits, key=lambda a: -(portraits[a].vectors @ text).max())
        matches = index.search(text, 5)
        assert [f.adapter for f in matches] == best[:5]
        assert [f.needed for f in matches] == [portraits[f.adapter].threshold for f in matches]


def test_an_empty_index_finds_nothing():
    assert VectorIndex().search(AXES[0], 3) == []
