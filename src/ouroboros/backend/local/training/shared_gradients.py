"""Shared gradients: one forward and backward pass serves the optimizer steps of all running trainings.

A training requests the gradient of its step from the `GradientBatcher`. Each pass over the base takes
rows from every waiting request, as many as the token budget allows, and runs each row under its own
adapter. Adapters that train at the same time share passes, whatever their data, rank, loss or pace, and
no training waits for another one to end.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ouroboros.backend.local.forward.packing import compute_output_logits
from ouroboros.backend.local.forward.pass_tokens import PassTokens
from ouroboros.backend.local.model.load import BaseRuntime
from ouroboros.backend.local.model.memory_plan import MemoryPlan
from ouroboros.backend.local.runtime.memory import oom_as_error
from ouroboros.backend.local.runtime.worker import Steps
from ouroboros.backend.local.training.distillation import compute_logprobs_and_kl
from ouroboros.backend.local.training.losses import (
    StepBatch,
    compute_coefficients,
    compute_step_loss,
    sum_by_sequence,
)
from ouroboros.backend.local.training.rows import StepStats, TokenizedRow, estimate_kl_to_start
from ouroboros.domain.errors import OutOfMemory
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.transfer import to_device

SERVING_PASS_TOKENS = 256
"""Tokens per pass while answers are generated. Generation waits for the pass, so the pass is short."""

_MEMORY_HINT = "Shorten the longest rows, close other programs, or take a smaller model."


class GradientBatcher:
    """Collects gradient requests and computes them together.

    `is_serving` returns whether answers are being generated; passes are shorter then.
    """

    def __init__(self, runtime: BaseRuntime, is_serving: Callable[[], bool] = lambda: False) -> None:
        self.runtime = runtime
        self._is_serving = is_serving
        self._requests: list[GradientRequest] = []

    def add_gradient(
        self,
        adapter: BankedAdapter,
        start: BankedAdapter | None,
        rows: Sequence[TokenizedRow],
        grads: Float[Tensor, "P"],
        total_grad: Float[Tensor, "P"],
        memory_plan: MemoryPlan,
        stop_if: Callable[[StepStats], bool] | None = None,
    ) -> Steps[Any, StepStats]:
        """Add the gradient of one optimizer step's loss over `rows` to `total_grad`, in float32.

        `grads` is the tensor that the adapter's `training` yields: a backward pass writes there. Each
        yield comes before at most one forward and backward pass, so that other trainings can add their
        requests to it. If all rows fit in one pass and `stop_if` is true for its statistics, the step
        needs no gradient: the backward pass is skipped and `total_grad` stays as it is.

        Raises `OutOfMemory` if the request does not fit into memory even in a pass of its own.
        """
        coefficients = compute_coefficients(
            [row.source for row in rows], [len(row.sequences[0].output) for row in rows]
        )
        kl = estimate_kl_to_start(self.runtime, adapter, start, rows) if start is not None else 0.0
        request = GradientRequest(
            adapter, rows, coefficients, kl, grads, total_grad, memory_plan, stop_if
        )
        self._requests.append(request)
        try:
            while request.next_row < len(rows):
                yield None
                if request.next_row < len(rows):  # another request's pass has not completed this one
                    self._run_pass(self._select_requests(request))
        finally:
            self._requests.remove(request)
        return request.stats

    def _select_requests(self, first: "GradientRequest") -> "list[tuple[GradientRequest, int]]":
        """Select the requests of the next pass, each with its number of rows.

        Requests take turns, one row a turn. Each row uses the share of the pass that its memory plan
        gives it, so that all selected rows fit together.
        """
        row_counts = {first: 1}
        serving = self._is_serving()
        pass_tokens = PassTokens(self.runtime, counts_cached=serving)
        remaining = 1.0 + 1e-9 - first.add_to_pass(first.next_row, pass_tokens, serving)
        self._requests = self._requests[1:] + self._requests[:1]  # no request is always first
        waiting = deque(self._requests)
        while waiting:
            request = waiting.popleft()
            index = request.next_row + row_counts.get(request, 0)
            if index == len(request.rows):
                continue
            share = request.add_to_pass(index, pass_tokens, serving)
            if share <= remaining:
                remaining -= share
                row_counts[request] = row_counts.get(request, 0) + 1
                waiting.append(request)
        return list(row_counts.items())

    def _run_pass(self, selection: "Sequence[tuple[GradientRequest, int]]") -> None:
        """Run one forward and backward pass; if memory runs out, run the first request alone."""
        predicted = max(request.memory_plan.predicted_bytes for request, _ in selection)
        try:
            with oom_as_error(self.runtime.device, predicted, _MEMORY_HINT):
                self._forward_backward(selection)
        except OutOfMemory:
            for request, _ in selection:
                request.grads.zero_()
            if len(selection) == 1:
                raise
            self._run_pass(selection[:1])

    def _forward_backward(self, selection: "Sequence[tuple[GradientRequest, int]]") -> None:
        """Run one pass over the next rows of each selected request and add its results to them."""
        # 1. One forward pass over the rows of all requests. It recomputes activations and starts at a
        #    layer as the most careful of the requests needs.
        parts = [(request, request.rows[request.next_row :][:count]) for request, count in selection]
        rows = [row for _, part in parts for row in part]
        sequences = [sequence for row in rows for sequence in row.sequences]
        adapters = [request.adapter for request, part in parts for row in part for _ in row.sequences]
        logits, batch = compute_output_logits(
            self.runtime,
            sequences,
            adapters,
            recompute=any(request.memory_plan.recompute for request, _ in selection),
            first_layer=min(request.memory_plan.first_layer for request, _ in selection),
        )
        logprobs, teacher_kl = compute_logprobs_and_kl(
            logits, batch.targets, list(map(_count_labels, rows)), [row.teacher for row in rows]
        )

        # 2. One loss per request, from its own span of the labelled tokens.
        lengths = [sum(map(_count_labels, part)) for _, part in parts]
        spans = zip(
            parts,
            logprobs.split(lengths),
            batch.sequence_index.split(lengths),
            teacher_kl.split(lengths),
            strict=True,
        )
        losses = [
            request.compute_loss(part, span_logprobs, owner - owner[0], span_kl)
            for (request, part), span_logprobs, owner, span_kl in spans
        ]

        # 3. Copy losses and log-probabilities to the host in one transfer: each transfer waits for the
        #    device. A loss that is not finite would spoil the gradients of the other requests, so then
        #    each request runs alone.
        values = torch.cat([torch.stack(losses), logprobs]).detach().cpu()
        loss_values, logprob_values = values[: len(losses)], values[len(losses) :].split(lengths)
        if len(selection) > 1 and not loss_values.isfinite().all():
            for single in selection:
                self._forward_backward([single])
            return

        # 4. One backward pass over all losses but those whose requests need no gradient.
        stats = [
            request.extend_stats(part, span_logprobs, loss)
            for (request, part), span_logprobs, loss in zip(
                parts, logprob_values, loss_values.tolist(), strict=True
            )
        ]
        needed = [
            loss
            for (request, _), loss, request_stats in zip(parts, losses, stats, strict=True)
            if not request.is_satisfied_by(request_stats)
        ]
        if needed:
            torch.stack(needed).sum().backward()
        for (request, _), request_stats in zip(parts, stats, strict=True):
            request.accept_pass(request_stats)


@dataclass(eq=False)
class GradientRequest:
    """The gradient of one optimizer step, and its progress: rows from `next_row` on have not run yet.

    coefficients  weight of each row in the step's loss.
    kl            estimated KL to the adapter before training, for the losses that use it; in nats.
    grads [P]     receives the gradient of one pass; zero between passes.
    total_grad [P]  the sum over passes.
    stats         of the rows that have run.
    """

    adapter: BankedAdapter
    rows: Sequence[TokenizedRow]
    coefficients: Sequence[float]
    kl: float
    grads: Float[Tensor, "P"]
    total_grad: Float[Tensor, "P"]
    memory_plan: MemoryPlan
    stop_if: Callable[[StepStats], bool] | None
    next_row: int = 0
    stats: StepStats = field(default_factory=lambda: StepStats(0.0, [], []))

    def add_to_pass(self, index: int, pass_tokens: PassTokens, serving: bool) -> float:
        """Add row `index` to a pass; returns the share of the pass that it uses.

        While answers are generated, passes are shorter.
        """
        tokens = sum(pass_tokens.add(sequence, self.adapter) for sequence in self.rows[index].sequences)
        limit = self.memory_plan.tokens_per_pass
        return tokens / (min(limit, SERVING_PASS_TOKENS) if serving else limit)

    def compute_loss(
        self,
        rows: Sequence[TokenizedRow],
        logprobs: Float[Tensor, "L"],
        owner: Int[Tensor, "L"],
        teacher_kl: Float[Tensor, "L"],
    ) -> Float[Tensor, ""]:
        """Compute the part of the step's loss that belongs to `rows`, the next ones of this request.

        `owner` is the sequence of each of the L output tokens, counted from the first of `rows`.
        """
        references = [reference for row in rows for reference in row.reference]
        sequences = sum(len(row.sequences) for row in rows)
        return compute_step_loss(
            StepBatch(
                rows=[row.source for row in rows],
                coefficients=self.coefficients[self.next_row : self.next_row + len(rows)],
                logprobs=logprobs,
                owner=owner,
                # Rows without references are in the first pass, whose adapter is the reference itself.
                reference=to_device(torch.tensor(references), logprobs.device)
                if references
                else sum_by_sequence(logprobs.detach(), owner, sequences),
                kl=self.kl,
                teacher_kl=teacher_kl,
            )
        )

    def extend_stats(
        self, rows: Sequence[TokenizedRow], logprobs: Float[Tensor, "L"], loss: float
    ) -> StepStats:
        """Returns the statistics with those of a pass over the next rows added."""
        totals, min_logprobs = _sum_logprobs(rows, logprobs)
        return StepStats(
            self.stats.loss + loss, self.stats.totals + totals, self.stats.min_logprobs + min_logprobs
        )

    def is_satisfied_by(self, stats: StepStats) -> bool:
        """Whether one pass over all rows gave statistics that make a gradient unnecessary."""
        is_single_pass = self.next_row == 0 and len(stats.totals) == len(self.rows)
        return is_single_pass and self.stop_if is not None and self.stop_if(stats)

    def accept_pass(self, stats: StepStats) -> None:
        """Store the statistics after a pass and add the pass's gradient to the total."""
        self.total_grad.add_(self.grads)
        self.grads.zero_()
        self.stats, self.next_row = stats, len(stats.totals)


def _count_labels(row: TokenizedRow) -> int:
    return sum(len(sequence.output) for sequence in row.sequences)


def _sum_logprobs(
    rows: Sequence[TokenizedRow], logprobs: Float[Tensor, "L"]
) -> tuple[list[tuple[float, ...]], list[float]]:
    """Returns the log-probability of each row's outputs, and of the least likely token of its first."""
    outputs = iter(logprobs.split([len(s.output) for row in rows for s in row.sequences]))
    by_row = [[next(outputs) for _ in row.sequences] for row in rows]
    totals = [tuple(float(output.sum()) for output in outputs_of_row) for outputs_of_row in by_row]
    return totals, [float(outputs_of_row[0].min()) for outputs_of_row in by_row]
