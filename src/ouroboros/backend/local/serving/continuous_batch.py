"""Continuous batching: all active requests, of any adapters, decode together, one token at a time.

Requests join and leave between any two tokens (Orca, OSDI 2022). A turn first runs the prompts of some
waiting requests, then one decode step for all rows. Each row has its own random generator and logits, so
an answer does not depend on other rows, and an error in one row ends that row alone.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ouroboros.backend.base import GenerationChunk
from ouroboros.backend.local.cache.kv_cache import KeysValues, KVCache
from ouroboros.backend.local.model.load import BaseRuntime
from ouroboros.backend.local.runtime.memory import oom_as_error, require_memory
from ouroboros.backend.local.runtime.worker import Steps
from ouroboros.backend.local.serving.prefill import prefill_prompts
from ouroboros.backend.local.serving.sequence import GeneratedSequence
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.errors import BackendError, Cancelled, OutOfMemory
from ouroboros.domain.generation import Generation
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.slots import Slots
from ouroboros.lora.transfer import to_device

MAX_ROWS = 64
"""Rows that decode together; further requests wait. A CPU gains nothing from a wider batch."""

PREFILL_TOKENS = 512
"""Prompt tokens per turn, unless a single prompt is longer: active rows wait for them meanwhile."""

_MEMORY_HINT = "Ask for fewer tokens, shorten the prompt, close other programs, or take a smaller model."


@dataclass(eq=False)
class ActiveRequest:
    """A request in the batch, with its growing answer.

    `on_chunk` receives each piece of the answer; `future` receives the whole answer or the error.
    """

    sequence: GeneratedSequence
    on_chunk: Callable[[GenerationChunk], None] | None = None
    cancel: CancellationToken = field(default_factory=CancellationToken)
    future: "Future[Generation]" = field(default_factory=Future)

    @property
    def adapter(self) -> BankedAdapter | None:
        """The adapter that answers; None for the base."""
        return self.sequence.prompt.adapter

    def append(self, token: int, logprob: float, alternatives: Sequence[tuple[int, float]] = ()) -> bool:
        """Append the next token and report its chunk; returns whether the answer continues."""
        chunk = self.sequence.append(token, logprob, alternatives)
        if self.on_chunk is not None:
            self.on_chunk(chunk)
        if self.sequence.finish:
            self.future.set_result(self.sequence.to_generation())
        return not self.sequence.finish

    def fail(self, error: BaseException) -> None:
        """Ends the request with an error, unless it has ended already."""
        if not self.future.done():
            self.future.set_exception(error)


def decode_step(
    runtime: BaseRuntime, ids: Int[Tensor, "B"], kv_cache: KVCache, slots: Slots
) -> Float[Tensor, "B V"]:
    """Run token ids [B] of all rows through the model; returns the logits of their next tokens."""
    runtime.threads.set_for_pass(runtime.base, len(ids))
    decoder = runtime.decoder
    if decoder is not None and decoder.fits_sliding_window([n + 1 for n in kv_cache.lengths]):
        return decoder.head(decoder.decode_step(ids, kv_cache, slots))
    mask, positions = kv_cache.begin_step()
    with runtime.bank.use_route(slots):
        logits = runtime.model(
            input_ids=ids[:, None],
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=kv_cache,
            use_cache=True,
        ).logits[:, -1]
    kv_cache.finish_step()
    return logits


class ContinuousBatch:
    """The active rows and the requests that wait to join; used on the worker's thread only."""

    def __init__(self, runtime: BaseRuntime, max_rows: int = MAX_ROWS) -> None:
        self._runtime = runtime
        self._max_rows = max_rows
        self._waiting: list[ActiveRequest] = []
        self._active: list[ActiveRequest] = []
        self._slots = Slots(runtime.device)
        self._kv_cache = KVCache()
        self.running = False

    def submit(self, requests: Sequence[ActiveRequest]) -> None:
        """Add requests to the queue; they join as soon as the batch has room."""
        self._waiting.extend(requests)

    @property
    def adapters(self) -> set[BankedAdapter]:
        """The adapters of all active and waiting requests."""
        return {a.adapter for a in (*self._active, *self._waiting) if a.adapter is not None}

    def steps(self) -> Steps[None, None]:
        """Returns turns until no request is left; one forward pass a step.

        `running` is true from this call on, not from the first step on: a request submitted in between
        must not start a second loop.
        """
        self.running = True
        return self._run()

    def _run(self) -> Steps[None, None]:
        try:
            while self._drop_cancelled():
                if joining := self._select_joining():
                    try:
                        self._admit(joining)
                    except BaseException as error:
                        for request in joining:  # they are in no list now, so `close` would miss them
                            request.fail(error)
                        raise
                    yield
                if self._active:
                    self._decode()
                    yield
        finally:
            self.running = False
            self._slots.assign_rows([])
            self.close()

    def close(self) -> None:
        """Fail all active and waiting requests, since no further turn will run."""
        error = BackendError("The backend was closed.", hint="Open the engine again.")
        self._fail_active(error)
        for request in self._waiting:
            request.fail(error)
        self._waiting = []

    def _drop_cancelled(self) -> bool:
        """Remove cancelled requests; returns whether any request is left."""
        for request in [a for a in self._active if a.cancel.cancelled]:
            self._remove(request)
            request.fail(Cancelled("Stopped as asked; nothing was changed."))
        for request in [a for a in self._waiting if a.cancel.cancelled]:
            self._waiting.remove(request)
            request.fail(Cancelled("Stopped as asked; nothing was changed."))
        return bool(self._active or self._waiting)

    def _admit(self, joining: Sequence[ActiveRequest]) -> None:
        """Run the prompts of joining requests and append their first tokens.

        In a packed row, a value that is not finite spreads to other prompts even through a mask, and an
        error does not name its prompt. In both cases each prompt runs again by itself.
        """
        # 1. Run all prompts in one pass.
        try:
            logits, rows = self._prefill(joining)
        except Exception as error:
            if len(joining) == 1:
                joining[0].fail(error)
                return
            logits, rows = None, []

        # 2. If one of several prompts may be at fault, run each alone, so that only that one fails.
        if logits is None or (len(joining) > 1 and not logits.isfinite().all()):
            for request in joining:
                self._admit([request])
            return

        # 3. Requests that continue after their first token become rows.
        for request, row, continues in zip(
            joining, rows, self._append_next_tokens(joining, logits), strict=True
        ):
            if continues:
                self._kv_cache.add_row(row)
                self._active.append(request)

    def _prefill(
        self, joining: Sequence[ActiveRequest]
    ) -> tuple[Float[Tensor, "B V"], list[list[KeysValues]]]:
        prompts = [request.sequence.prompt for request in joining]
        with (
            torch.no_grad(),
            oom_as_error(self._runtime.device, self._predict_bytes(joining), _MEMORY_HINT),
        ):
            return prefill_prompts(self._runtime, [p.ids for p in prompts], [p.adapter for p in prompts])

    def _select_joining(self) -> list[ActiveRequest]:
        """Select requests that join now: of the adapter with the fewest rows first, then oldest first.

        So a thousand requests for one adapter do not delay another adapter's. A request that does not
        fit into memory waits for others to end; one that would not fit alone fails.
        """
        rows_by_adapter = Counter(id(a.adapter) for a in self._active)
        joining: list[ActiveRequest] = []
        tokens = 0
        while self._waiting and len(self._active) + len(joining) < self._max_rows:
            # 1. The next candidate, unless its prompt would make this turn too long.
            request = min(self._waiting, key=lambda a: rows_by_adapter[id(a.adapter)])
            tokens += len(request.sequence.prompt.ids)
            if joining and tokens > PREFILL_TOKENS:
                break

            # 2. It needs memory up to its last token, beside all rows up to theirs.
            try:
                self._require_room([*joining, request])
            except OutOfMemory as error:
                if joining or self._active:
                    break
                self._waiting.remove(request)
                request.fail(error)
                continue

            # 3. It joins.
            self._waiting.remove(request)
            rows_by_adapter[id(request.adapter)] += 1
            joining.append(request)
        return joining

    def _require_room(self, joining: Sequence[ActiveRequest]) -> None:
        """Raise `OutOfMemory` unless these requests fit beside active rows, up to their last tokens."""
        free = self._runtime.free_bytes
        room = None if free is None else free + self._kv_cache.nbytes
        action = f"Answering a prompt of {len(joining[-1].sequence.prompt.ids):,} tokens"
        require_memory(action, self._predict_bytes(joining), room, _MEMORY_HINT)

    def _predict_bytes(self, joining: Sequence[ActiveRequest]) -> int:
        """Predict the bytes of all rows at their maximal length, and of the prefill of joining ones."""
        costs, requests = self._runtime.memory_costs, (*self._active, *joining)
        max_length = max((s.sequence.max_length for s in requests), default=0)
        prefill_bytes = sum(costs.prefill_bytes(len(s.sequence.prompt.ids)) for s in joining)
        return costs.keys_values * self._kv_cache.capacity(len(requests), max_length) + prefill_bytes

    def _decode(self) -> None:
        """Append one token to every row; rows that end leave the batch."""
        try:
            with (
                torch.no_grad(),
                oom_as_error(self._runtime.device, self._predict_bytes([]), _MEMORY_HINT),
            ):
                logits = self._run_decode_step()
        except Exception as error:
            self._fail_active(error)
            return
        requests = list(self._active)
        for request, continues in zip(requests, self._append_next_tokens(requests, logits), strict=True):
            if not continues:
                self._remove(request)

    def _run_decode_step(self) -> Float[Tensor, "B V"]:
        self._slots.assign_rows([a.adapter for a in self._active])
        ids = to_device(
            torch.tensor([a.sequence.last_token for a in self._active]), self._runtime.device
        )
        return decode_step(self._runtime, ids, self._kv_cache, self._slots)

    def _append_next_tokens(
        self, requests: Sequence[ActiveRequest], logits: Float[Tensor, "B V"]
    ) -> list[bool]:
        """Append the next token to each request, with its log-probability at temperature 1.

        Returns for each whether it continues. An error fails its own request only.
        """
        # 1. Reduce the logits of all rows on the device, and copy the results in few transfers.
        logits = logits.float()
        highest, likeliest = logits.max(-1)
        highest, norms = torch.stack([highest, logits.logsumexp(-1)]).tolist()
        likeliest = likeliest.tolist()

        # 2. Select alternatives only for rows that requested them: it costs a sort of the row.
        alternatives_by_row = {
            i: _select_top_tokens(logits[i], request.sequence.top_count)
            for i, request in enumerate(requests)
            if request.sequence.top_count
        }

        # 3. Choose and append each row's token.
        continues = []
        for i, request in enumerate(requests):
            try:
                if not math.isfinite(norms[i]):
                    raise BackendError(
                        "The model's output is not finite for this prompt.",
                        hint="Check the adapter's training report, or use dtype float32.",
                    )
                token, logit = likeliest[i], highest[i]
                if not request.sequence.greedy:
                    token = request.sequence.sample(logits[i])
                    logit = float(logits[i, token])
                alternatives = [
                    (other, value - norms[i]) for other, value in alternatives_by_row.get(i, ())
                ]
                continues.append(request.append(token, logit - norms[i], alternatives))
            except Exception as error:  # the other rows continue
                request.fail(error)
                continues.append(False)
        return continues

    def _remove(self, request: ActiveRequest) -> None:
        row = self._active.index(request)
        self._kv_cache.remove_row(row)
        self._active[row] = self._active[-1]
        self._active.pop()

    def _fail_active(self, error: BaseException) -> None:
        for request in self._active:
            request.fail(error)
        self._active, self._kv_cache = [], KVCache()


def _select_top_tokens(logits: Float[Tensor, "V"], count: int) -> list[tuple[int, float]]:
    """Returns the `count` most likely tokens with their logits, the most likely first."""
    values, tokens = logits.topk(min(count, len(logits)))
    return list(zip(tokens.tolist(), values.tolist(), strict=True))
