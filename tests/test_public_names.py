"""The public names, pinned: changing them is a decision, not an accident."""

import inspect

import pytest

import ouroboros

PUBLIC = """
    Adapter AdapterConfig AdapterFiles AdapterId AdapterLearningEngine CancellationToken Err
    Evaluation ExportForm FeedbackSignal Generation GenerationConfig Lesson MergeRecipe MergeReport
    MergeSpace MergeStrategy Message Ok OuroborosError Result Settings SyncEngine Ticket TrainingConfig
    TrainingExample TrainingProgress TrainingReport Version VersionRef shrink_to_limit open_engine
    open_sync_engine
"""


def test_the_public_names_are_these():
    assert sorted(ouroboros.__all__) == sorted(PUBLIC.split())


def test_every_public_name_exists_and_is_documented():
    for name in ouroboros.__all__:
        value = getattr(ouroboros, name)
        assert name == "Result" or inspect.getdoc(value), name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Engine'"):
        ouroboros.Engine  # type: ignore[attr-defined]
