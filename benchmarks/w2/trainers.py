"""Building the peers' trainers and running them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch.utils.data import Sampler
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from benchmarks.harness import Times
from benchmarks.w2.job import (
    ALPHA,
    BATCH,
    RANK,
    SEED,
    TARGETS,
    TrainerRun,
    encode_labelled,
    folder_of,
)
from benchmarks.w2.peers import Setup
from ouroboros.backend.local.training.train import shuffle_rows
from ouroboros.domain.config import TrainingConfig


def train(job: TrainerRun, setup: Setup, folder: Path) -> Times:
    """Run the job once and save its adapter; what it took from the loaded model to the saved files."""
    base = AutoModelForCausalLM.from_pretrained(job.model, dtype=getattr(torch, setup.dtype))
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    started = Times.now()
    model = _with_adapter(base, job)
    make = _sft_trainer if setup.sft else _plain_trainer
    trainer = make(job, setup, model, tokenizer, str(folder / "work"))
    trainer.train()
    trainer.save_model(str(folder))
    return started.since()


def _with_adapter(base: Any, job: TrainerRun) -> PeftModel:
    """A fresh adapter that starts where ours does."""
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    set_peft_model_state_dict(model, load_file(folder_of(job, "start") / "adapter_model.safetensors"))
    return model


def _settings(job: TrainerRun, setup: Setup, folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "use_cpu": True,
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": job.epochs,
        "learning_rate": job.rate,
        **setup.settings,
    }


def _plain_trainer(
    job: TrainerRun, setup: Setup, model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: str
) -> Trainer:
    collator = DataCollatorWithFlattening() if setup.flat else DataCollatorForSeq2Seq(tokenizer)
    return _OrderedTrainer(
        job,
        model=model,
        args=TrainingArguments(**_settings(job, setup, folder)),
        train_dataset=[encode_row(tokenizer, *row) for row in job.rows],
        data_collator=collator,
    )


def _sft_trainer(
    job: TrainerRun, setup: Setup, model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: str
) -> SFTTrainer:
    return _OrderedSFTTrainer(
        job,
        model=model,
        args=SFTConfig(**_settings(job, setup, folder)),
        train_dataset=Dataset.from_list([{"prompt": p, "completion": o} for p, o in job.rows]),
        processing_class=tokenizer,
    )


def encode_row(tokenizer: PreTrainedTokenizerBase, prompt: str, output: str) -> dict[str, list[int]]:
    """A row as ids, with labels on the output and its end."""
    before, after = encode_labelled(tokenizer, prompt, output)
    ids = before + after
    return {"input_ids": ids, "labels": [-100] * len(before) + after, "attention_mask": [1] * len(ids)}


class _Epochs(Sampler[int]):
    """The rows in the order in which ours takes them, one epoch each time it is asked."""

    def __init__(self, job: TrainerRun) -> None:
        training = TrainingConfig(BATCH, job.epochs, seed=SEED)
        rows = [i for step in shuffle_rows(len(job.rows), training, max_steps=1_000_000) for i in step]
        size = len(job.rows)
        self._epochs: Sequence[list[int]] = [rows[i : i + size] for i in range(0, len(rows), size)]
        self._next = 0

    def __iter__(self):
        epoch = self._epochs[self._next]
        self._next += 1
        return iter(epoch)

    def __len__(self) -> int:
        return len(self._epochs[0])


class _OrderedTrainer(Trainer):
    """`Trainer`, with the rows in our order."""

    def __init__(self, job: TrainerRun, **arguments: Any) -> None:
        self._job = job
        super().__init__(**arguments)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return _Epochs(self._job)


class _OrderedSFTTrainer(SFTTrainer):
    """`SFTTrainer`, with the rows in our order."""

    def __init__(self, job: TrainerRun, **arguments: Any) -> None:
        self._job = job
        super().__init__(**arguments)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return _Epochs(self._job)
