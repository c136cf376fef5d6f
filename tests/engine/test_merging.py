"""Merging, importing and exporting through the engine: real tiny model, real SQLite, real files."""

import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from ouroboros.backend.local import LocalBackend
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import (
    AlreadyExists,
    BaseMismatch,
    InvalidAdapter,
    InvalidConfig,
    NotFound,
    OuroborosError,
    Refused,
    TooLarge,
)
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.merging import MergeRecipe, MergeStrategy
from ouroboros.domain.result import Err, Result
from ouroboros.domain.weights import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles, ExportForm
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata
from ouroboros.sync import SyncEngine
from ouroboros.testing.tiny import tiny_model

SHIPPING = (TrainingExample("where is my parcel?", "shipping"),)
BILLING = (TrainingExample("I was charged twice", "billing"),)
BOTH = (*SHIPPING, *BILLING)
CONFIG = AdapterConfig(learning_rate=1e-2, target_modules="all-linear")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and a store with two adapters, each of which knows its own answer."""
    home = tmp_path_factory.mktemp("trained")
    tiny_model(home / "model")
    with SyncEngine(open_engine(home / "model", home / "store")) as engine:
        for name, examples in (("shipping", SHIPPING), ("billing", BILLING)):
            engine.create_adapter(name, CONFIG).unwrap()
            engine.train_adapter(name, examples, TrainingConfig(epochs=30)).unwrap()
    return home


def open_engine(model: Path, store: Path) -> AdapterLearningEngine:
    registry = Registry(
        open_metadata(f"sqlite:///{store}/metadata.db"), open_blobs(f"file://{store}/blobs")
    )
    return AdapterLearningEngine(LocalBackend.open(str(model), dtype="float32"), registry)


@pytest.fixture
async def engine(trained: Path, tmp_path: Path) -> AsyncIterator[AdapterLearningEngine]:
    """An engine on a copy of the trained store."""
    store = Path(shutil.copytree(trained / "store", tmp_path / "store"))
    async with open_engine(trained / "model", store) as engine:
        yield engine


def refusal_type(result: Result) -> type[OuroborosError]:
    """What kind of error came back; each says what to do next."""
    assert isinstance(result, Err), result
    assert result.error.hint
    return type(result.error)


async def names(engine: AdapterLearningEngine) -> list[str]:
    return [a.id.name for a in (await engine.list_adapters()).unwrap()]


async def test_a_merge_is_a_new_adapter_made_of_its_parents_heads(engine: AdapterLearningEngine):
    report = (await engine.merge_adapters(["shipping", "billing"], probes=BOTH)).unwrap()
    assert report.id.name == "shipping+billing"
    assert report.relative_error < 1e-5
    assert report.rank == report.lossless_rank == 16
    assert report.accuracy["shipping@2"] == report.accuracy["billing@2"] == 0.5
    (version,) = (await engine.get_versions(report.id)).unwrap()
    assert version.cause == "merged shipping@2, billing@2 (task_arithmetic)"
    assert await names(engine) == ["billing", "shipping", "shipping+billing"]


async def test_a_sum_of_adapters_knows_what_both_know(engine: AdapterLearningEngine):
    recipe = MergeRecipe(MergeStrategy.TASK_ARITHMETIC, (1.0, 1.0))
    merged = (
        await engine.merge_adapters(["shipping", "billing"], recipe, name="both", probes=BOTH)
    ).unwrap()
    assert merged.accuracy["both"] >= 0.5
    assert (merged.advice == "") == (merged.accuracy["both"] >= 0.5)


async def test_a_version_merged_with_weight_one_answers_as_it_did(engine: AdapterLearningEngine):
    recipe = MergeRecipe(MergeStrategy.WEIGHTED, (1.0, 0.0))
    report = (await engine.merge_adapters(["shipping", "billing"], recipe, name="copy")).unwrap()
    prompt = SHIPPING[0].input
    answers = [
        (await engine.generate_with_adapter(prompt, name)).unwrap().text
        for name in ("shipping", report.id)
    ]
    assert answers[0] == answers[1] == "shipping"


async def test_weights_come_from_probes_when_none_are_given(engine: AdapterLearningEngine):
    """Only `shipping` answers these probes, so it alone counts."""
    report = (
        await engine.merge_adapters(
            ["shipping", "billing"], MergeStrategy.WEIGHTED, name="best", probes=SHIPPING
        )
    ).unwrap()
    assert report.accuracy == {"shipping@2": 1.0, "billing@2": 0.0, "best": 1.0}
    assert report.advice == ""


async def test_weights_come_from_what_people_said_where_all_were_judged(engine: AdapterLearningEngine):
    """One success of one is 2/3 and one failure of one 1/3: drawn to a half, for so little."""
    weighted = MergeStrategy.WEIGHTED
    for name, signal in (("shipping", FeedbackSignal.success()), ("billing", FeedbackSignal.failure())):
        prompt, answer = (SHIPPING if name == "shipping" else BILLING)[0], name
        (await engine.learn_from_feedback(prompt.input, answer, signal, name)).unwrap()
    report = (await engine.merge_adapters(["shipping", "billing"], weighted, name="used")).unwrap()
    assert report.weights == pytest.approx((2 / 3, 1 / 3))


async def test_a_merge_that_is_worse_than_a_parent_says_so(engine: AdapterLearningEngine):
    recipe = MergeRecipe(MergeStrategy.TASK_ARITHMETIC, (-1.0, 0.1))
    probes = SHIPPING * 6
    request = {"name": "bad", "probes": probes}
    result = await engine.merge_adapters(["shipping", "billing"], recipe, **request)
    assert refusal_type(result) is Refused
    assert "bad" not in await names(engine)
    report = (
        await engine.merge_adapters(["shipping", "billing"], recipe, **request, anyway=True)
    ).unwrap()
    assert report.accuracy["bad"] == 0.0
    assert "Merging did not help: of 6 probes shipping@2 gets 6 right and bad 0" in report.advice


@pytest.mark.parametrize(
    ("parents", "options", "error"),
    [
        (["shipping"], {}, InvalidConfig),
        ([], {}, InvalidConfig),
        (["shipping", "shipping"], {}, InvalidConfig),
        (["shipping", "shipping@2"], {}, InvalidConfig),
        (["shipping", "nobody"], {}, NotFound),
        (["shipping", "billing@9"], {}, NotFound),
        (["shipping", "billing"], {"name": "billing"}, AlreadyExists),
        (["shipping", "billing"], {"rank": 0}, InvalidConfig),
        (["shipping", "billing"], {"rank": 100_000}, TooLarge),
        (
            ["shipping", "billing"],
            {"strategy": MergeRecipe(MergeStrategy.TASK_ARITHMETIC, (1.0,))},
            InvalidConfig,
        ),
        (
            ["shipping", "billing"],
            {"strategy": MergeRecipe(MergeStrategy.TASK_ARITHMETIC, (0.0, 0.0))},
            InvalidConfig,
        ),
    ],
)
async def test_what_cannot_be_merged_is_refused_and_nothing_is_made(
    engine: AdapterLearningEngine, parents: list[str], options: dict, error: type
):
    assert refusal_type(await engine.merge_adapters(parents, **options)) is error
    assert await names(engine) == ["billing", "shipping"]


async def test_adapters_of_another_base_are_refused(trained: Path, tmp_path: Path):
    store = Path(shutil.copytree(trained / "store", tmp_path / "store"))
    async with open_engine(tiny_model(tmp_path / "model", seed=1), store) as other:
        assert refusal_type(await other.merge_adapters(["shipping", "billing"])) is BaseMismatch


async def test_an_exported_adapter_comes_back_as_itself(engine: AdapterLearningEngine):
    exported = (await engine.export_adapter("shipping")).unwrap()
    files = AdapterFiles(exported[CONFIG_FILE], exported[WEIGHTS_FILE])
    adapter = (await engine.import_adapter("back", files)).unwrap()
    (back,) = (await engine.get_versions("back")).unwrap()
    assert (back.cause, back.digest) == ("imported", files.digest)
    assert adapter.config.rank == CONFIG.rank
    answer = (await engine.generate_with_adapter(SHIPPING[0].input, "back")).unwrap()
    assert answer.text == "shipping"


async def test_an_imported_adapter_can_be_trained(engine: AdapterLearningEngine):
    exported = (await engine.export_adapter("shipping@1")).unwrap()
    files = AdapterFiles(exported[CONFIG_FILE], exported[WEIGHTS_FILE])
    (await engine.import_adapter("fresh", files)).unwrap()
    version = (await engine.train_adapter("fresh", BILLING)).unwrap()
    assert version.number == 2


async def test_a_damaged_adapter_is_not_imported(engine: AdapterLearningEngine):
    exported = (await engine.export_adapter("shipping")).unwrap()
    files = AdapterFiles(exported[CONFIG_FILE], exported[WEIGHTS_FILE])
    damaged = replace(files, weights=files.weights[:-1])
    assert refusal_type(await engine.import_adapter("damaged", damaged)) is InvalidAdapter
    assert refusal_type(await engine.import_adapter("billing", files)) is AlreadyExists
    assert await names(engine) == ["billing", "shipping"]


async def test_gguf_is_one_file(engine: AdapterLearningEngine):
    exported = (await engine.export_adapter("shipping", ExportForm.GGUF)).unwrap()
    assert list(exported) == ["adapter.gguf"]
    assert refusal_type(await engine.export_adapter("nobody")) is NotFound


async def test_without_probes_the_parents_own_ones_are_asked(engine: AdapterLearningEngine):
    report = (await engine.merge_adapters(["shipping", "billing"], name="asked")).unwrap()
    assert report.accuracy["shipping@2"] == report.accuracy["billing@2"] == 0.5


@pytest.mark.parametrize("strategy", [MergeStrategy.TASK_ARITHMETIC, MergeStrategy.TSV])
async def test_coefficients_are_tuned_when_none_are_given(
    engine: AdapterLearningEngine, strategy: MergeStrategy
):
    plain = MergeRecipe(strategy, (1.0, 1.0))
    weighted = (
        await engine.merge_adapters(["shipping", "billing"], plain, name="given", anyway=True)
    ).unwrap()
    tuned = (await engine.merge_adapters(["shipping", "billing"], strategy, name="found")).unwrap()
    assert weighted.weights == (1.0, 1.0)
    assert len(tuned.weights) == 2
    assert tuned.accuracy["found"] >= weighted.accuracy["given"]
