"""The training run: warm-up, a stable part, an optional linear decay; checkpoints to resume from.

The shipped model has no decay: it lowers the loss on text, but adapters do not learn better on it.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from ouroboros.starter.make.corpus import Corpus, TokenBlocks
from ouroboros.starter.make.optimizer import create_optimizers
from ouroboros.starter.make.tokenizer import END, PAD

SHARD_STEPS = 32


@dataclass(frozen=True)
class PretrainingRun:
    """Settings of a run: short blocks in the stable part, where attention is cheap, longer ones in the
    decay.
    """

    tokens: int
    decay_tokens: int
    stable_length: int = 256
    decay_length: int = 512
    micro_tokens: int = 4096
    micro_batches: int = 2
    matrix_rate: float = 0.02
    other_rate: float = 0.003
    warmup_steps: int = 60
    save_every: int = 32
    first_shard: int = 0

    @property
    def step_tokens(self) -> int:
        """Tokens in one optimizer step."""
        return self.micro_tokens * self.micro_batches

    @property
    def steps(self) -> int:
        """Optimizer steps in the run."""
        return self.tokens // self.step_tokens

    def rate(self, step: int) -> float:
        """Return the share of the full rate at a step."""
        return min(1.0, (step + 1) / self.warmup_steps, (self.steps - step) / self.decay_steps)

    @property
    def decay_steps(self) -> int:
        """Last steps of the run, in which the rate decays to zero."""
        return max(1, self.decay_tokens // self.step_tokens)

    def length(self, shard: int) -> int:
        """Return the block length of a shard."""
        return (
            self.decay_length
            if shard * SHARD_STEPS >= self.steps - self.decay_steps
            else self.stable_length
        )


def create_model(tokenizer: Tokenizer, seed: int = 0) -> LlamaForCausalLM:
    """Create the model with random weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=256,
        intermediate_size=544,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(PAD),
        attn_implementation="eager",  # type: ignore[call-arg]  # every config takes it
    )
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.zeros_(parameter)
        elif parameter.ndim == 2 and "embed" not in name:
            torch.nn.init.normal_(parameter, std=parameter.size(1) ** -0.5)
    return model


def document_mask(documents: Tensor) -> Tensor:
    """[B, T] ids -> additive [B, 1, T, T]: a token sees the earlier tokens of its own document."""
    length = documents.size(1)
    is_visible = (documents[:, :, None] == documents[:, None, :]) & torch.ones(
        length, length, dtype=torch.bool
    ).tril()
    return torch.zeros(is_visible.shape, dtype=torch.bfloat16).masked_fill_(~is_visible, -1e4)[:, None]


def sample_targets(weights: Tensor) -> Tensor:
    """Return the indices of a quarter of the [B, T] tokens: every answer, then a draw by weight.

    Predicting all would spend a third of the arithmetic on the vocabulary, and most words of a question
    teach little.
    """
    keys = torch.where(weights > 1, 10.0, weights * torch.rand(weights.shape))
    return keys.flatten().topk(weights.numel() // 4, sorted=False).indices.sort().values


def weighted_loss(
    model: LlamaForCausalLM, tokens: Tensor, weights: Tensor, mask: Tensor, targets: Tensor
) -> Tensor:
    """Sum weight x cross entropy over the sampled tokens."""
    hidden = model.model(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden.flatten(0, 1)[targets - 1]).float()
    losses = F.cross_entropy(logits, tokens.flatten()[targets], reduction="none")
    return (losses * weights.flatten()[targets]).sum()


def train(
    corpus: Corpus,
    tokenizer: Tokenizer,
    run: PretrainingRun,
    checkpoint: Path,
    start: Path | None = None,
) -> LlamaForCausalLM:
    """Train to the end, from `checkpoint` if it exists, else from the finished model in `start`."""
    model = create_model(tokenizer)
    if start is not None:
        model.load_state_dict(LlamaForCausalLM.from_pretrained(start, dtype=torch.float32).state_dict())
    # 1. Resume from the checkpoint, if there is one: a shard depends on its number alone.
    optimizers = create_optimizers(model, run.matrix_rate, run.other_rate)
    first = (
        load_checkpoint(model, optimizers, checkpoint) // run.step_tokens if checkpoint.exists() else 0
    )
    loss_of = torch.compile(weighted_loss, dynamic=False)
    blocks, shard = None, -1
    # 2. Draw each shard of blocks when its first step is reached: all of them would not fit in memory.
    for step in range(first, run.steps):
        if step // SHARD_STEPS != shard:
            shard = step // SHARD_STEPS
            length = run.length(shard)
            blocks = corpus.shard(
                run.first_shard + shard, tokenizer, SHARD_STEPS * run.step_tokens // length, length
            )
        started_at = time.monotonic()
        loss = train_step(model, loss_of, optimizers, blocks, run, step)  # type: ignore[arg-type]  # read in the first round
        if step % 10 == 0:
            speed = run.step_tokens / (time.monotonic() - started_at)
            position = f"step {step}/{run.steps} rate {run.rate(step):.2f}"
            print(f"{position} loss {loss:.3f} tokens/s {speed:.0f}", flush=True)
        if (step + 1) % run.save_every == 0:
            save_checkpoint(model, optimizers, (step + 1) * run.step_tokens, checkpoint)
    return model


def train_step(model, loss_of, optimizers, blocks: TokenBlocks, run: PretrainingRun, step: int) -> float:
    """Take one optimizer step over `micro_batches`; returns the mean loss of the step."""
    parts = split_micro_batches(blocks, run, step)
    targets = [sample_targets(weights) for _, weights, _ in parts]
    total = sum(
        weights.flatten()[chosen].sum() for (_, weights, _), chosen in zip(parts, targets, strict=True)
    )
    loss = 0.0
    for (tokens, weights, documents), chosen in zip(parts, targets, strict=True):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            partial = loss_of(model, tokens, weights, document_mask(documents), chosen) / total
        partial.backward()
        loss += partial.item()
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss} at step {step}")
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, rate in zip(optimizers, (run.matrix_rate, run.other_rate), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * run.rate(step)
        optimizer.step()
    model.zero_grad()
    return loss


def split_micro_batches(
    blocks: TokenBlocks, run: PretrainingRun, step: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return tokens, weights and documents of each micro-batch, all [micro rows, T]."""
    arrays = [torch.from_numpy(x) for x in (blocks.tokens, blocks.weights, blocks.documents)]
    rows = run.micro_tokens // blocks.tokens.shape[1]
    first = (step % SHARD_STEPS) * run.micro_batches
    return [
        tuple(x[n * rows : (n + 1) * rows] for x in arrays)  # type: ignore[misc]  # there are three
        for n in range(first, first + run.micro_batches)
    ]


def save_checkpoint(model, optimizers, tokens: int, path: Path) -> None:
    """Write a partial file and rename it, so that an interrupted write keeps the last checkpoint."""
    partial_path = path.with_suffix(".part")
    torch.save(
        {
            "model": model.state_dict(),
            "optimizers": [o.state_dict() for o in optimizers],
            "tokens": tokens,
        },
        partial_path,
    )
    partial_path.rename(path)


def load_checkpoint(model, optimizers, path: Path) -> int:
    """Load a checkpoint and return the number of tokens seen so far."""
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["tokens"]


def export_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Write the Hugging Face files, with weights in bfloat16."""
    model.config._attn_implementation = "sdpa"
    model.generation_config = GenerationConfig(
        eos_token_id=model.config.eos_token_id, pad_token_id=model.config.pad_token_id, do_sample=False
    )
    model.to(dtype=torch.bfloat16).save_pretrained(folder)  # type: ignore[call-arg]
