"""An adapter that floats would make too large is kept in integers, judged as it is kept, and says so."""

import json
from pathlib import Path

import pytest

from ouroboros.backend.local import LocalBackend
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.weights import Precision
from ouroboros.engine import AdapterLearningEngine
from ouroboros.lora import size
from ouroboros.lora.size import predicted_size
from ouroboros.lora.targets import select_layers
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata

CONFIG = AdapterConfig(learning_rate=1e-2, target_modules="all-linear")
EXAMPLES = [
    TrainingExample("where is my parcel?", "shipping"),
    TrainingExample("I was charged twice", "billing"),
]


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT4])
async def test_it_learns_is_judged_and_served_in_integers(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision
):
    registry = Registry(open_metadata(f"sqlite:///{tmp_path}/m.db"), open_blobs(f"file://{tmp_path}/b"))
    backend = LocalBackend.open(str(tiny), dtype="float32", threads=1)
    async with AdapterLearningEngine(backend, registry) as engine:
        base = (await engine.base()).unwrap()
        fits = predicted_size(base, select_layers(base, CONFIG), CONFIG.rank, precision)
        monkeypatch.setattr(size, "MAX_BYTES", fits)  # the one limit, as if the model were larger
        adapter = (await engine.create_adapter("tickets", CONFIG)).unwrap()
        assert adapter.config.precision == precision.value
        version = (await engine.train_adapter("tickets", EXAMPLES, TrainingConfig(epochs=30))).unwrap()
        files = registry.load_files(version)
        assert json.loads(files.config)["peft_type"] == f"OUROBOROS_{precision.name}"
        assert version.origin is not None
        assert version.origin.config.precision == precision.value
        assert registry.scores.get(adapter.id, version.digest).drift is not None, "these bits were asked"
        answer = (await engine.generate_with_adapter(EXAMPLES[0].input, "tickets")).unwrap()
        assert answer.text == "shipping"
        exported = (await engine.export_adapter("tickets")).unwrap()
        assert json.loads(exported["adapter_config.json"])["peft_type"] == "LORA"
