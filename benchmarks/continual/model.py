"""What all arms share: the base, one training loop with hooks, and one way of judging an adapter."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

from ouroboros.backend.local.forward.packing import compute_output_logprobs
from ouroboros.backend.local.model.load import BaseRuntime
from ouroboros.backend.local.model.tokenizer import TokenizedPair
from ouroboros.backend.local.runtime.worker import Steps
from ouroboros.backend.local.serving.score import ScoreItem, score_outputs
from ouroboros.backend.local.training.rows import (
    TokenizedRow,
    add_references,
    plan_token_budget,
    tokenize_rows,
)
from ouroboros.backend.local.training.shared_gradients import GradientBatcher
from ouroboros.backend.local.training.train import interleave_replay, schedule_rates, shuffle_rows
from ouroboros.domain.config import ANSWER, AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row, TrainingExample
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.inject import inject
from ouroboros.lora.targets import select_layers
from ouroboros.lora.weights import LoraWeights, LowRank

Change = Callable[[Float[Tensor, "P"], Float[Tensor, "P"]], None]
"""Given the weights and their gradient, changes the gradient in place."""

PROSE_TOKENS = 128


@dataclass(frozen=True)
class Bench:
    """The base, how adapters on it are shaped and trained, and plain text that no task is about."""

    runtime: BaseRuntime
    config: AdapterConfig
    training: TrainingConfig
    prose: tuple[TokenizedPair, ...]

    def fresh(self, seed: int) -> LoraWeights:
        """PEFT's initial factors: A uniform, B zero."""
        chance = torch.Generator().manual_seed(seed)
        weights = {}
        for shape in select_layers(self.runtime.base, self.config):
            bound = shape.inputs**-0.5
            a = torch.empty(self.config.rank, shape.inputs).uniform_(-bound, bound, generator=chance)
            b = torch.zeros(shape.outputs, self.config.rank)
            weights[shape.path] = LowRank(a, b, self.config.scale)
        return weights

    def adapter(self, weights: LoraWeights) -> BankedAdapter:
        opening = len(self.runtime.base.invocation_tokens) if self.config.acts_on == ANSWER else None
        adapter = BankedAdapter(weights, self.runtime.dtype, self.runtime.device, opening)
        inject(self.runtime.model, adapter.paths, self.runtime.bank)
        return adapter

    def fit(
        self,
        weights: LoraWeights,
        examples: Sequence[TrainingExample],
        replay: Sequence[TrainingExample] = (),
        change: Change = lambda weights, gradient: None,
        training: TrainingConfig | None = None,
    ) -> LoraWeights:
        """Train as the engine does, with `replay` along; each gradient goes through `change`."""
        training = training or self.training
        adapter = self.adapter(weights)
        items = self._items(adapter, (*examples, *replay))
        # 1. Plan each step as the engine does: shuffled new rows, and replayed rows beside them.
        new = list(shuffle_rows(len(examples), training, self.config.max_steps))
        known = range(len(examples), len(items))
        replayed = interleave_replay(new, known, training.replay, training.seed + 1)
        plan = [[*step, *more] for step, more in zip(new, replayed, strict=True)]
        rates = schedule_rates(len(plan), training, self.config.learning_rate)
        # 2. Optimize the factors directly, so that an arm can change the gradient of each step.
        master = adapter.master
        master.grad = torch.zeros_like(master)
        optimizer = torch.optim.AdamW([master], weight_decay=training.weight_decay, fused=True)
        pool, passes = (
            GradientBatcher(self.runtime),
            plan_token_budget(self.runtime, adapter, items, plan),
        )
        with adapter.training() as grads:
            for chosen, rate in zip(plan, rates, strict=True):
                batch = [items[i] for i in chosen]
                _finish(pool.add_gradient(adapter, None, batch, grads, master.grad, passes))
                change(master, master.grad)
                torch.nn.utils.clip_grad_norm_([master], training.max_grad_norm)
                optimizer.param_groups[0]["lr"] = rate
                optimizer.step()
                adapter.publish()
                master.grad.zero_()
        return adapter.weights()

    def fisher(self, weights: LoraWeights, examples: Sequence[TrainingExample]) -> Float[Tensor, "P"]:
        """Mean square of the gradient over single rows: the diagonal of the empirical Fisher matrix."""
        adapter = self.adapter(weights)
        total, one = torch.zeros_like(adapter.master), torch.zeros_like(adapter.master)
        items = self._items(adapter, examples)
        steps = [[i] for i in range(len(items))]
        pool, passes = (
            GradientBatcher(self.runtime),
            plan_token_budget(self.runtime, adapter, items, steps),
        )
        with adapter.training() as grads:
            for item in items:
                _finish(pool.add_gradient(adapter, None, [item], grads, one.zero_(), passes))
                total += one.square() / len(examples)
        return total

    def _items(self, adapter: BankedAdapter, examples: Sequence[TrainingExample]) -> list[TokenizedRow]:
        rows = tokenize_rows(self.runtime, [Row.from_example(example) for example in examples])
        return _finish(add_references(self.runtime, adapter, rows))

    def accuracy(self, weights: LoraWeights | None, examples: Sequence[TrainingExample]) -> float:
        """Share of examples whose output greedy decoding says exactly."""
        adapter = None if weights is None else self.adapter(weights)
        codec = self.runtime.tokenizer
        items = [ScoreItem(codec.encode_pair(e.input, e.output), adapter) for e in examples]
        return fmean(s.said for s in _finish(score_outputs(self.runtime, items)))

    def perplexity(self, weights: LoraWeights | None) -> float:
        """On the plain text."""
        adapter = None if weights is None else self.adapter(weights)
        logprobs = _finish(
            compute_output_logprobs(self.runtime, self.prose, [adapter] * len(self.prose))
        )
        return math.exp(-float(torch.cat(logprobs).mean()))


def prose(runtime: BaseRuntime, folder: Path, pieces: int = 3) -> tuple[TokenizedPair, ...]:
    """A few pieces of each of the folder's text files, as tokens to be predicted one by one."""
    passages = []
    for file in sorted(folder.glob("*.txt")):
        text = file.read_text(errors="replace")
        for i in range(1, pieces + 1):
            at = i * len(text) // (pieces + 1)
            piece = text[at : at + 6 * PROSE_TOKENS]
            ids = runtime.tokenizer.hf_tokenizer(piece, add_special_tokens=False)["input_ids"][
                :PROSE_TOKENS
            ]
            passages.append(TokenizedPair(tuple(ids[:1]), tuple(ids[1:])))
    return tuple(passages)


def _finish(steps: Steps) -> list:
    """Run work to its end, here."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
