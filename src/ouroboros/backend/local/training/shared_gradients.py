"""Shared gradients: trainings ask for the gradients of their steps, and one pass serves them all.

A trainer asks the `GradientBatcher` for a gradient. A pass over the base takes rows of every training
that waits, as many as the token budget holds, each under its own adapter. Adapters that learn together
share the passes, whatever their data, rank, loss or pace, and none waits for another job to end.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ouroboros.backend.local.forward.packing import compute_output_logits
from ouroboros.backend.local.forward.prefix_reuse import total_pass_tokens
from ouroboros.backend.local.model.load import BaseRuntime
from ouroboros.backend.local.model.memory_plan import MemoryPlan
from ouroboros.backend.local.runtime.memory import oom_as_error
from ouroboros.backend.local.runtime.worker import Steps
from ouroboros.backend.local.training.distillation import logprobs_and_kl
from ouroboros.backend.local.training.losses import SequenceBatch, coefficients, step_loss, totals
from ouroboros.backend.local.training.rows import StepStats, TokenizedRow, kl_to_start
from ouroboros.domain.errors import OutOfMemory
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.transfer import to_device

WATCHED_TOKENS = 256
"""Tokens per pass while someone reads an answer being written: so short is the wait for a pass."""

_SMALLER = "Shorten the longest rows, close other programs, or take a smaller model."


class GradientBatcher:
    """Gradients that are being asked for, to be found together.

    `watched` tells whether answers are being written meanwhile.
    """

    def __init__(self, runtime: BaseRuntime, watched: Callable[[], bool] = lambda: False) -> None:
        self.runtime = runtime
        self._watched = watched
        self._asked: list[GradientRequest] = []

    def gradient(
        self,
        adapter: BankedAdapter,
        start: BankedAdapter | None,
        items: Sequence[TokenizedRow],
        grads: Float[Tensor, "P"],
        into: Float[Tensor, "P"],
        plan: MemoryPlan,
        enough: Callable[[StepStats], bool] | None = None,
    ) -> Steps[Any, StepStats]:
        """Add the gradient of one optimizer step's loss to `into`, in float32.

        `grads` is what the adapter's `training` yields. Each step is at most one forward and backward
        pass, after everyone else has had the chance to ask. Where all items are read in one pass and
        what was found is `enough`, no gradient is wanted, and none is added.
        """
        shares = coefficients([i.row for i in items], [len(i.sequences[0].output) for i in items])
        kl = kl_to_start(self.runtime, adapter, start, items) if start is not None else 0.0
        tokens = [total_pass_tokens(self.runtime, i.sequences, adapter) for i in items]
        asked = GradientRequest(adapter, items, tokens, shares, kl, grads, into, plan, enough)
        self._asked.append(asked)
        try:
            while asked.next < len(items):
                yield None
                if asked.next < len(items):  # nobody else's pass has had room for it yet
                    self._pass(self._choose(asked))
        finally:
            self._asked.remove(asked)
        return asked.found

    def _choose(self, first: "GradientRequest") -> "list[tuple[GradientRequest, int]]":
        """Who takes part in the next pass, each with how many of its rows: taken in turn, a row each.

        A row takes the share of the pass that its plan has for it, so that all together fit.
        """
        taking = {first: 1}
        watched = self._watched()
        room = 1.0 + 1e-9 - first.share(first.next, watched)
        self._asked = self._asked[1:] + self._asked[:1]  # nobody is always first
        waiting = deque(self._asked)
        while waiting:
            asked = waiting.popleft()
            at = asked.next + taking.get(asked, 0)
            if at < len(asked.items) and (share := asked.share(at, watched)) <= room:
                room -= share
                taking[asked] = taking.get(asked, 0) + 1
                waiting.append(asked)
        return list(taking.items())

    def _pass(self, taking: "Sequence[tuple[GradientRequest, int]]") -> None:
        """One forward and backward pass. Should the memory not hold it, the first one runs alone."""
        predicted = max(asked.plan.predicted_bytes for asked, _ in taking)
        try:
            with oom_as_error(self.runtime.device, predicted, _SMALLER):
                self._run(taking)
        except OutOfMemory:
            for asked, _ in taking:
                asked.grads.zero_()
            if len(taking) == 1:
                raise
            self._pass(taking[:1])

    def _run(self, taking: "Sequence[tuple[GradientRequest, int]]") -> None:
        """The pass itself. Should one adapter's loss not be finite, each runs alone."""
        chosen = [(asked, asked.items[asked.next : asked.next + n]) for asked, n in taking]
        sequences = [s for _, items in chosen for item in items for s in item.sequences]
        adapters = [a.adapter for a, items in chosen for item in items for _ in item.sequences]
        again = any(asked.plan.recompute for asked, _ in taking)
        start = min(asked.plan.first_layer for asked, _ in taking)
        logits, batch = compute_output_logits(
            self.runtime, sequences, adapters, recompute=again, first_layer=start
        )
        every = [item for _, items in chosen for item in items]
        logprobs, apart = logprobs_and_kl(
            logits, batch.targets, list(map(_labels, every)), [item.teacher for item in every]
        )
        lengths = [sum(map(_labels, items)) for _, items in chosen]
        losses = [
            asked.loss_of(items, piece, own - own[0], away)
            for (asked, items), piece, own, away in zip(
                chosen,
                logprobs.split(lengths),
                batch.sequence_index.split(lengths),
                apart.split(lengths),
                strict=True,
            )
        ]
        told = torch.cat([torch.stack(losses), logprobs]).detach().cpu()  # a device is waited for once
        values, said = told[: len(losses)], told[len(losses) :].split(lengths)
        if len(taking) > 1 and not values.isfinite().all():
            for one in taking:
                self._run([one])
            return
        found = [
            asked.found_with(items, piece, value)
            for (asked, items), piece, value in zip(chosen, said, values.tolist(), strict=True)
        ]
        wanted = [
            loss
            for (asked, _), loss, new in zip(chosen, losses, found, strict=True)
            if not asked.content_with(new)
        ]
        if wanted:
            torch.stack(wanted).sum().backward()
        for (asked, _), new in zip(chosen, found, strict=True):
            asked.take(new)


@dataclass(eq=False)
class GradientRequest:
    """A gradient that someone waits for, and how far it is: items from `next` on are still to run."""

    adapter: BankedAdapter
    items: Sequence[TokenizedRow]
    tokens: Sequence[int]
    shares: Sequence[float]
    kl: float
    grads: Float[Tensor, "P"]
    into: Float[Tensor, "P"]
    plan: MemoryPlan
    enough: Callable[[StepStats], bool] | None
    next: int = 0
    found: StepStats = field(default_factory=lambda: StepStats(0.0, [], []))

    def share(self, item: int, watched: bool) -> float:
        """What part of a pass an item takes; `watched` ones are short, what is read before included."""
        if watched:
            return len(self.items[item]) / min(self.plan.tokens_per_pass, WATCHED_TOKENS)
        return self.tokens[item] / self.plan.tokens_per_pass

    def loss_of(
        self,
        items: Sequence[TokenizedRow],
        logprobs: Float[Tensor, "L"],
        owner: Int[Tensor, "L"],
        apart: Float[Tensor, "L"],
    ) -> Float[Tensor, ""]:
        """The share of the step's loss that the next items make up."""
        known = [r for item in items for r in item.reference]
        sequences = sum(len(item.sequences) for item in items)
        return step_loss(
            SequenceBatch(
                rows=[item.row for item in items],
                coefficients=self.shares[self.next : self.next + len(items)],
                logprobs=logprobs,
                owner=owner,
                reference=to_device(torch.tensor(known), logprobs.device)
                if known
                else totals(logprobs.detach(), owner, sequences),
                kl=self.kl,
                apart=apart,
            )
        )

    def found_with(
        self, items: Sequence[TokenizedRow], logprobs: Float[Tensor, "L"], loss: float
    ) -> StepStats:
        """What has been found once a pass over the next items is counted."""
        totals, least = _sums(items, logprobs)
        before = self.found
        return StepStats(before.loss + loss, before.totals + totals, before.least + least)

    def content_with(self, found: StepStats) -> bool:
        """Whether what one pass over all items has found is enough, without its gradient."""
        whole = self.next == 0 and len(found.totals) == len(self.items)
        return whole and self.enough is not None and self.enough(found)

    def take(self, found: StepStats) -> None:
        """Put down what a pass has found, and its gradient."""
        self.into.add_(self.grads)
        self.grads.zero_()
        self.found, self.next = found, len(found.totals)


def _labels(item: TokenizedRow) -> int:
    return sum(len(s.output) for s in item.sequences)


def _sums(
    items: Sequence[TokenizedRow], logprobs: Float[Tensor, "L"]
) -> tuple[list[tuple[float, ...]], list[float]]:
    """Of each item the log-probability of its outputs, and of the least likely token of its first."""
    outputs = iter(logprobs.split([len(s.output) for item in items for s in item.sequences]))
    of = [[next(outputs) for _ in item.sequences] for item in items]
    return [tuple(float(o.sum()) for o in own) for own in of], [float(own[0].min()) for own in of]
