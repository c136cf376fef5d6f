"""One yardstick for all arms: what PEFT makes of the folders they saved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.w2.job import TrainerRun, encode_labelled, folder_of


def judge(job: Mapping[str, Any], folders: Mapping[str, str]) -> dict[str, Any]:
    """Per arm: mean NLL per output token in float32, and how many factors are where they started."""
    from safetensors.torch import load_file

    work = TrainerRun.of(job)
    start = str(folder_of(work, "start"))
    weights = {
        n: load_file(Path(f, "adapter_model.safetensors"))
        for n, f in {**folders, "start": start}.items()
    }
    return {
        name: {
            "nll": _nll(work, folder),
            "unmoved": sum(
                bool((weights[name][key] == first).all()) for key, first in weights["start"].items()
            ),
        }
        for name, folder in {"start": start, **folders}.items()
    }


def _nll(job: TrainerRun, folder: str) -> float:
    """Mean over all output tokens of all rows, each row alone."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.model)
    base = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder).eval()
    total, tokens = 0.0, 0
    for prompt, output in job.rows:
        before, after = encode_labelled(tokenizer, prompt, output)
        with torch.no_grad():
            logits = model(torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
        total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(after), reduction="sum"))
        tokens += len(after)
    return total / tokens
