"""Hand an adapter to other programs, and take one in: a version is a PEFT folder."""

import tempfile
from pathlib import Path

from ouroboros import (
    AdapterFiles,
    Err,
    ExportForm,
    TrainingExample,
    open_sync_engine,
)

with open_sync_engine(store="memory:") as engine, tempfile.TemporaryDirectory() as temporary:
    engine.create_adapter("tickets").unwrap()
    engine.train_adapter("tickets", [TrainingExample("Where is my parcel?", "delivery")]).unwrap()

    # Out: PeftModel.from_pretrained(model, folder) and vLLM's --lora-modules read this folder.
    folder = Path(temporary)
    for name, data in engine.export_adapter("tickets").unwrap().items():
        (folder / name).write_bytes(data)
        print(f"wrote {name}, {len(data):,} bytes")

    # Out, for llama.cpp (--lora) and Ollama (ADAPTER), where they know the model's architecture.
    (gguf,) = engine.export_adapter("tickets", ExportForm.GGUF).unwrap().values()
    print(f"as GGUF, {len(gguf):,} bytes")

    # In: checked byte by byte, and refused unless it fits this base.
    files = AdapterFiles(
        config=(folder / "adapter_config.json").read_bytes(),
        weights=(folder / "adapter_model.safetensors").read_bytes(),
    )
    adapter = engine.import_adapter("from elsewhere", files).unwrap()
    print(f"imported {adapter.id}, rank {adapter.config.rank}")

    damaged = AdapterFiles(files.config, files.weights[:-1])
    refused = engine.import_adapter("damaged", damaged)
    if isinstance(refused, Err):
        print(f"refused: {refused.error}")
