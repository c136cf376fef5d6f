"""Few-shot accuracy: train a LoRA adapter on an unseen task, then evaluate its held-out rows.

    python -m ouroboros.starter.make.measure --model FOLDER --tasks examples/data

It has a plain training loop of its own, so that the model is measured without the engine.
"""

import argparse
import json
import random
import statistics
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

TARGETS = {
    "all": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "qv": ("q_proj", "v_proj"),
}
IGNORED = -100
Row = dict[str, str]


class LoraLinear(nn.Module):
    """base(x) + 2 B A x, with A [R, I] and B [O, R] (alpha is twice the rank)."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Parameter(torch.empty(rank, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return the frozen layer's output and the low-rank update."""
        return self.base(x) + 2.0 * (x @ self.a.T) @ self.b.T


def load_with_adapter(folder: Path, targets: str, rank: int, seed: int) -> nn.Module:
    """Load a model with a new adapter on its target layers."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).requires_grad_(False)
    for layer in model.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name, child in list(block.named_children()):
                if name in TARGETS[targets]:
                    setattr(block, name, LoraLinear(child, rank))
    return model


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tokenize_row(tokenizer, row: Row) -> tuple[list[int], list[int]]:
    """Return the token ids of prompt and answer, and the labels: the answer and its end token."""
    messages = [{"role": "user", "content": row["prompt"]}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    answer = [*tokenizer.encode(row["completion"], add_special_tokens=False), tokenizer.eos_token_id]
    return prompt + answer, [IGNORED] * len(prompt) + answer


def pad_rows(rows: list[tuple[list[int], list[int]]], pad: int) -> tuple[Tensor, Tensor]:
    """Stack rows into tokens [B, T] and labels [B, T], padded to the longest."""
    longest = max(len(tokens) for tokens, _ in rows)
    tokens = torch.tensor([x + [pad] * (longest - len(x)) for x, _ in rows])
    labels = torch.tensor([y + [IGNORED] * (longest - len(y)) for _, y in rows])
    return tokens, labels


def train_adapter(
    model: nn.Module, rows: list, pad: int, rate: float, epochs: int, batch: int, seed: int
) -> None:
    """Train with AdamW, a short warm-up, then a linear decay to zero."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    steps = epochs * -(-len(rows) // batch)
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 8, (steps - step) / steps)
    )
    rng = random.Random(seed)
    for _ in range(epochs):
        order = rng.sample(rows, len(rows))
        for start in range(0, len(order), batch):
            tokens, labels = pad_rows(order[start : start + batch], pad)
            logits = model(input_ids=tokens, use_cache=False).logits
            F.cross_entropy(
                logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
            ).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()


@torch.no_grad()
def measure_exact_match(model: nn.Module, rows: list, pad: int) -> float:
    """Return the share of rows that greedy decoding gets exactly right, including the end token.

    Greedy decoding produces the expected answer if and only if each of its tokens is the most likely one
    after the tokens before it, so one forward pass is enough.
    """
    tokens, labels = pad_rows(rows, pad)
    best = model(input_ids=tokens, use_cache=False).logits[:, :-1].argmax(-1)
    right = (best == labels[:, 1:]) | (labels[:, 1:] == IGNORED)
    return right.all(1).float().mean().item()


def measure_task(
    folder: Path, task: Path, options: argparse.Namespace, seed: int
) -> tuple[float, float]:
    """Return the accuracy on the held-out rows before and after training."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    train, heldout = (
        [tokenize_row(tokenizer, row) for row in read_rows(task / f"{part}.jsonl")]
        for part in ("train", "heldout")
    )
    model = load_with_adapter(folder, options.targets, options.rank, seed)
    before = measure_exact_match(model, heldout, tokenizer.pad_token_id)
    train_adapter(
        model, train, tokenizer.pad_token_id, options.rate, options.epochs, options.batch, seed
    )
    return before, measure_exact_match(model, heldout, tokenizer.pad_token_id)


def main() -> None:
    """Measure the starter model as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m ouroboros.starter.make.measure", description=__doc__
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument(
        "--tasks", type=Path, required=True, help="folder of folders with train.jsonl and heldout.jsonl"
    )
    parser.add_argument("--targets", choices=sorted(TARGETS), default="all")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for task in sorted(path for path in options.tasks.iterdir() if not (path / "rules.json").exists()):
        scores = [measure_task(options.model, task, options, seed) for seed in range(options.seeds)]
        after = [100 * accuracy for _, accuracy in scores]
        listed = " ".join(f"{accuracy:.0f}" for accuracy in after)
        before, mean = 100 * scores[0][0], statistics.mean(after)
        print(f"{task.name:10} before {before:3.0f}%  after {mean:5.1f}%  ({listed})", flush=True)


if __name__ == "__main__":
    main()
