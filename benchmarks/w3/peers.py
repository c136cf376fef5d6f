"""PEFT, one adapter after the other on one model."""

import shutil
from typing import Any

from benchmarks.harness import Times
from benchmarks.w3.work import RATE, WARM, encode_labelled, end_of, rows, start_of


def peer(model: str, work: str, count: int, name: str, dtype: str) -> dict[str, Any]:
    """What the same updates take, after five times as many of another adapter, which warm up."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
    tokenizer = AutoTokenizer.from_pretrained(model)
    folders = [str(start_of(work, "all", number)) for number in range(count)]
    network: Any = PeftModel.from_pretrained(base, folders[0], "warm", is_trainable=True)
    for number, folder in enumerate(folders):
        network.load_adapter(folder, _name(number), is_trainable=True)
    learned = [encode_labelled(tokenizer, *row) for row in rows(count)]
    for row in (row for seed in WARM for row in rows(count, seed)):
        _step(network, "warm", encode_labelled(tokenizer, *row), fused=dtype == "bfloat16")
    started = Times.now()
    for number, row in enumerate(learned):
        _step(network, _name(number), row, fused=dtype == "bfloat16")
    times = started.since()
    for number in range(count):
        end = end_of(work, name, count, number)
        network.save_pretrained(str(end), selected_adapters=[_name(number)])
        shutil.copytree(end / _name(number), end, dirs_exist_ok=True)  # PEFT saves under the name
    return {"times": times}


def _name(number: int) -> str:
    """A number alone PEFT would also take out of the paths of layers of that number."""
    return f"adapter{number}"


def _step(network: Any, name: str, row: tuple[list[int], list[int]], fused: bool) -> None:
    import torch

    network.set_adapter(name)
    weights = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0, fused=fused)
    ids, labels = (torch.tensor([part]) for part in row)
    network(input_ids=ids, labels=labels).loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
    assert norm > 0
    optimizer.step()
    optimizer.zero_grad()
