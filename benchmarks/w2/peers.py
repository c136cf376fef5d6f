"""The peers' arms: `transformers.Trainer` and TRL's `SFTTrainer` on PEFT.

Defaults are the libraries' own, with nothing set but the job. "bf16" is what their documentation says to
turn on. "Tuned" goes as far as their switches do: the base in bfloat16 under bfloat16 autocast, rows
laid end to end instead of padded, and no checkpointing, logging, saving or progress bar on the way; a
fused AdamW is their default already. Compiling the model costs more than it saves on so short a job.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.w2.job import TrainerRun, folder_of

_QUIET: dict[str, Any] = {"logging_strategy": "no", "save_strategy": "no", "disable_tqdm": True}
_FLAT_SFT: dict[str, Any] = {"padding_free": True, "max_length": None, "gradient_checkpointing": False}


@dataclass(frozen=True)
class Setup:
    """How a peer is run: its trainer, the type the base is loaded in, and the settings it is given."""

    sft: bool
    dtype: str = "float32"
    flat: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


PEERS = {
    "Trainer, defaults": Setup(sft=False),
    "Trainer, bf16": Setup(sft=False, settings={"bf16": True}),
    "Trainer, tuned": Setup(False, "bfloat16", True, {**_QUIET, "bf16": True}),
    "SFTTrainer, defaults": Setup(sft=True),
    "SFTTrainer, tuned": Setup(True, "bfloat16", True, {**_QUIET, **_FLAT_SFT, "bf16": True}),
}


def peer(job: Mapping[str, Any], runs: int, name: str) -> dict[str, Any]:
    """Run the job `runs` times, cold and then warm; what each took, and the adapter's folder."""
    from benchmarks.w2.trainers import train

    work = TrainerRun.of(job)
    folder = folder_of(work, name.replace(", ", "-"))
    return {"times": [train(work, PEERS[name], folder) for _ in range(runs)], "folder": str(folder)}
