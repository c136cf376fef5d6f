"""What cannot be merged or imported is refused with its code and a hint, and not a byte is written."""

import hashlib
import json
import math
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from ouroboros.backend.local import LocalBackend
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.merging import MergeRecipe, MergeStrategy
from ouroboros.domain.names import AdapterId
from ouroboros.domain.result import Err, Result
from ouroboros.domain.weights import MAX_BYTES, AdapterFiles
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata
from ouroboros.testing.tiny import tiny_model

ARITHMETIC, WEIGHTED = MergeStrategy.TASK_ARITHMETIC, MergeStrategy.WEIGHTED
CONFIG = AdapterConfig(rank=4)


def open_engine(backend: LocalBackend, store: Path) -> AdapterLearningEngine:
    registry = Registry(
        open_metadata(f"sqlite:///{store}/metadata.db"), open_blobs(f"file://{store}/blobs")
    )
    return AdapterLearningEngine(backend, registry)


@pytest.fixture(scope="module")
def backend(tiny: Path) -> LocalBackend:
    return LocalBackend.open(str(tiny), dtype="float32", threads=1)


@pytest.fixture
async def engine(backend: LocalBackend, tmp_path: Path) -> AsyncIterator[AdapterLearningEngine]:
    """With two adapters, a and b."""
    engine = open_engine(backend, tmp_path)
    for name in ("a", "b"):
        (await engine.create_adapter(name, CONFIG)).unwrap()
    yield engine
    engine._registry.blocking.close()


def contents(engine: AdapterLearningEngine, folder: Path) -> dict[str, Any]:
    """All that a store holds: every record, every log, every file of weights."""
    metadata, _ = engine._registry.blocking.stores
    records = {c: metadata.scan(c) for c in metadata.collections()}
    logs = {log: (metadata.last(log), metadata.read(log)) for log in metadata.logs()}
    files = {
        str(f): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted((folder / "blobs").rglob("*"))
        if f.is_file()
    }
    return {"records": records, "logs": logs, "files": files}


def code(result: Result) -> str:
    assert isinstance(result, Err), result
    assert result.error.message
    assert result.error.hint
    return result.error.code


def weighing(*weights: float, strategy: MergeStrategy = ARITHMETIC) -> dict[str, Any]:
    return {"strategy": MergeRecipe(strategy, weights)}


REFUSED: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "none": ([], {}, "invalid_config"),
    "one": (["a"], {}, "invalid_config"),
    "the same twice": (["a", "b", "a"], {}, "invalid_config"),
    "the same twice, as head and by number": (["a", "a@1"], {}, "invalid_config"),
    "nobody": (["a", "nobody"], {}, "not_found"),
    "a version that is not there": (["a", "b@7"], {}, "not_found"),
    "too few weights": (["a", "b"], weighing(1.0), "invalid_config"),
    "too many weights": (["a", "b"], weighing(1.0, 1.0, 1.0), "invalid_config"),
    "all weights zero": (["a", "b"], weighing(0.0, 0.0), "invalid_config"),
    "weights that cancel to nothing": (["a", "b"], weighing(1e-9, -1e-9), "invalid_config"),
    "a weight that is NaN": (["a", "b"], weighing(1.0, math.nan), "invalid_config"),
    "an infinite weight": (["a", "b"], weighing(1.0, -math.inf), "invalid_config"),
    "a negative share": (["a", "b"], weighing(1.0, -1.0, strategy=WEIGHTED), "invalid_config"),
    "an average with weights": (
        ["a", "b"],
        weighing(1.0, 1.0, strategy=MergeStrategy.AVERAGE),
        "invalid_config",
    ),
    "rank 0": (["a", "b"], {"rank": 0}, "invalid_config"),
    "a negative rank": (["a", "b"], {"rank": -4}, "invalid_config"),
    "over the limit": (["a", "b"], {"rank": 10**6}, "too_large"),
    "a name that is taken": (["a", "b"], {"name": "a"}, "already_exists"),
    "a name nobody can address": (["a", "b"], {"name": "x@y"}, "invalid_name"),
    "nothing that differs from the base": (["a", "b"], {}, "refused"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_senseless_merge_is_refused(engine, tmp_path: Path, case: str):
    parents, options, expected = REFUSED[case]
    before = contents(engine, tmp_path)
    assert code(await engine.merge_adapters(parents, **{"name": "new", **options})) == expected
    assert contents(engine, tmp_path) == before


async def test_adapters_of_another_base_are_refused(engine, backend: LocalBackend, tmp_path: Path):
    other = open_engine(
        LocalBackend.open(str(tiny_model(tmp_path / "other", seed=1)), dtype="float32"), tmp_path
    )
    before = contents(other, tmp_path)
    assert code(await other.merge_adapters(["a", "b"], name="new")) == "base_mismatch"
    assert contents(other, tmp_path) == before
    other._registry.blocking.close()


async def export_files(engine: AdapterLearningEngine) -> AdapterFiles:
    version = (await engine.get_version("a")).unwrap()
    return engine._registry.blocking.load_files(version)


def poison_files(files: AdapterFiles, value: float) -> AdapterFiles:
    """The same tensors, one number changed, as another program would write them."""
    tensors = load(files.weights)
    next(iter(tensors.values()))[0, 0] = value
    return replace(files, weights=save(tensors))


@pytest.mark.parametrize("value", [math.nan, math.inf])
async def test_a_version_that_holds_nan_is_not_merged(engine, tmp_path: Path, value: float):
    """It cannot come in through the engine; here it is planted in the store."""
    files = poison_files(await export_files(engine), value)
    base = (await engine.base()).unwrap()
    engine._registry.blocking.create_adapter(AdapterId("sick"), CONFIG, base, files)
    before = contents(engine, tmp_path)
    assert code(await engine.merge_adapters(["a", "sick"], name="new")) == "invalid_adapter"
    assert contents(engine, tmp_path) == before


async def test_a_parent_whose_weights_are_damaged_on_disk_is_not_merged(engine, tmp_path: Path):
    digest = (await engine.get_version("b")).unwrap().digest
    weight_files = [f for f in (tmp_path / "blobs").rglob("*.safetensors") if digest in str(f)]
    (damaged,) = weight_files
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    before = contents(engine, tmp_path)
    assert code(await engine.merge_adapters(["a", "b"], name="new")) == "store_error"
    assert contents(engine, tmp_path) == before


async def refused_import(engine: AdapterLearningEngine, files: AdapterFiles, expected: str) -> None:
    assert code(await engine.import_adapter("new", files)) == expected


async def test_files_cut_off_at_every_percent_are_not_imported(engine, tmp_path: Path):
    files = await export_files(engine)
    before = contents(engine, tmp_path)
    for percent in range(100):
        for part in ("weights", "config"):
            whole = getattr(files, part)
            cut = replace(files, **{part: whole[: len(whole) * percent // 100]})
            await refused_import(engine, cut, "invalid_adapter")
    assert contents(engine, tmp_path) == before


async def test_fuzzed_headers_are_not_imported(engine, tmp_path: Path):
    """Ten thousand at the reader itself: tests/lora/test_tensorfile.py."""
    files = await export_files(engine)
    header = 8 + int.from_bytes(files.weights[:8], "little")
    chance = random.Random(0)
    before = contents(engine, tmp_path)
    for _ in range(200):
        at = chance.randrange(8, header)
        fuzzed = files.weights[:at] + chance.randbytes(3) + files.weights[at + 1 :]
        await refused_import(engine, replace(files, weights=fuzzed), "invalid_adapter")
    assert contents(engine, tmp_path) == before


def change_config(files: AdapterFiles, **changes: object) -> AdapterFiles:
    return replace(files, config=json.dumps({**json.loads(files.config), **changes}).encode())


def rename_adapter(files: AdapterFiles, name: str) -> AdapterFiles:
    tensors = load(files.weights)
    tensors[name] = tensors.pop(next(iter(tensors)))
    return replace(files, weights=save(tensors))


@pytest.mark.parametrize(
    "reach",
    [
        {"auto_mapping": {"base_model_class": "system", "parent_library": "os"}},
        {"custom_code": "__import__('os').system('true')"},
        {"megatron_config": {"module": "os"}},
        {"peft_type": "../../LORA"},
        {"modules_to_save": ["../../etc"]},
        {"target_modules": [{"path": "/etc/passwd"}]},
        {"base_model_name_or_path": ["/etc/passwd"]},
        {"trust_remote_code": True},
    ],
    ids=lambda reach: next(iter(reach)),
)
async def test_configs_that_reach_for_code_or_paths_are_not_imported(engine, tmp_path: Path, reach):
    files = change_config(await export_files(engine), **reach)
    before = contents(engine, tmp_path)
    await refused_import(engine, files, "invalid_adapter")
    assert contents(engine, tmp_path) == before


@pytest.mark.parametrize("pattern", ["(a+)+$", "../../x", "__import__('os')"])
async def test_patterns_that_match_no_layer_are_read_as_peft_reads_them(engine, pattern: str):
    """A pattern is matched, and nothing else: it neither runs nor names a file, nor takes long."""
    files = change_config(await export_files(engine), rank_pattern={pattern: 4})
    imported = (await engine.import_adapter("new", files)).unwrap()
    assert imported.config.rank == CONFIG.rank


@pytest.mark.parametrize("name", ["../../etc/x", "/etc/x", "base_model.model.../../x.lora_A.weight"])
async def test_tensors_named_like_paths_are_not_imported(engine, tmp_path: Path, name: str):
    files = rename_adapter(await export_files(engine), name)
    before = contents(engine, tmp_path)
    await refused_import(engine, files, "invalid_adapter")
    assert contents(engine, tmp_path) == before


async def test_numbers_that_are_none_and_files_over_the_limit_are_not_imported(engine, tmp_path: Path):
    files = await export_files(engine)
    before = contents(engine, tmp_path)
    await refused_import(engine, poison_files(files, math.nan), "invalid_adapter")
    await refused_import(engine, replace(files, weights=bytes(MAX_BYTES + 1)), "too_large")
    doubled = save({k: torch.cat([t, t]) for k, t in load(files.weights).items()})
    await refused_import(engine, replace(files, weights=doubled), "invalid_adapter")
    assert contents(engine, tmp_path) == before
