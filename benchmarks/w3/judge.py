"""One yardstick for all arms: PEFT, on the folders that they leave."""

from collections.abc import Sequence
from typing import Any

from benchmarks.w3.work import encode_labelled, end_of, rows, start_of

JUDGED = 8
"""The first adapters of each arm, at most."""


def judge(model: str, work: str, count: int, names: Sequence[str]) -> dict[str, Any]:
    """Per arm: each adapter's mean loss on its row, in float32, and the factors that did not move."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    learned = [encode_labelled(tokenizer, *row) for row in rows(count)[:JUDGED]]
    result: dict[str, Any] = {}
    for name in names:
        losses, unmoved = [], 0
        for number, (ids, labels) in enumerate(learned):
            folder = end_of(work, name, count, number)
            network: Any = PeftModel.from_pretrained(base, str(folder)).eval()
            with torch.no_grad():
                loss = network(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
            losses.append(float(loss))
            unmoved += count_unmoved(work, folder, number)
            base = network.unload()
        result[name] = {"losses": losses, "unmoved": unmoved}
    return result


def count_unmoved(work: str, folder: Any, number: int) -> int:
    """Factors that are where they started; an answer-only adapter has invocation tokens."""
    import json

    from safetensors.torch import load_file

    config = json.loads((folder / "adapter_config.json").read_text())
    acts_on = "answer" if config.get("alora_invocation_tokens") else "all"
    start = load_file(start_of(work, acts_on, number) / "adapter_model.safetensors")
    end = load_file(folder / "adapter_model.safetensors")
    return sum(bool((end[key] == first).all()) for key, first in start.items())
