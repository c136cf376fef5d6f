"""The running batch: every request of the moment, whichever adapters they name, one token at a time.

Requests join and leave between any two tokens (continuous batching, Orca, OSDI 2022). A turn first runs
the prompts of some who wait, then one further token of all rows. Each row has its own randomness and its
own logits, so its answer does not depend on its neighbours; what goes wrong in a row ends it alone.
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

MOST_ROWS = 64
"""Rows that run together; more wait. Beyond this a processor gains nothing from a wider batch."""

PROMPT_TOKENS = 512
"""Prompt tokens run in one turn, unless a single prompt is longer: so much do the others wait for it."""

_SMALLER = "Ask for fewer tokens, shorten the prompt, close other programs, or take a smaller model."


@dataclass(eq=False)
class ActiveRequest:
    """A request's place in the batch: who is told of each piece, and who waits for the whole."""

    answer: GeneratedSequence
    tell: Callable[[GenerationChunk], None] | None = None
    cancel: CancellationToken = field(default_factory=CancellationToken)
    done: "Future[Generation]" = field(default_factory=Future)

    @property
    def adapter(self) -> BankedAdapter | None:
        return self.answer.question.adapter

    def push(self, token: int, logprob: float, alternatives: Sequence[tuple[int, float]] = ()) -> bool:
        """Take the next token and tell of it; whether the answer goes on."""
        piece = self.answer.push(token, logprob, alternatives)
        if self.tell is not None:
            self.tell(piece)
        if self.answer.finish:
            self.done.set_result(self.answer.generation())
        return not self.answer.finish

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)


def decode_step(
    runtime: BaseRuntime, ids: Int[Tensor, "B"], columns: KVCache, slots: Slots
) -> Float[Tensor, "B V"]:
    """One further token of every row; what it says comes next."""
    runtime.threads.set_for_pass(runtime.base, len(ids))
    decoder = runtime.decoder
    if decoder is not None and decoder.fits_sliding_window([n + 1 for n in columns.lengths]):
        return decoder.head(decoder.decode_step(ids, columns, slots))
    mask, positions = columns.begin_step()
    with runtime.bank.use_route(slots):
        logits = runtime.model(
            input_ids=ids[:, None],
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=columns,
            use_cache=True,
        ).logits[:, -1]
    columns.finish_step()
    return logits


class ContinuousBatch:
    """Rows that decode together, and requests that wait to join. Lives on the worker's thread."""

    def __init__(self, runtime: BaseRuntime, most_rows: int = MOST_ROWS) -> None:
        self._runtime = runtime
        self._most_rows = most_rows
        self._waiting: list[ActiveRequest] = []
        self._rows: list[ActiveRequest] = []
        self._slots = Slots(runtime.device)
        self._columns = KVCache()
        self.running = False

    def ask(self, seats: Sequence[ActiveRequest]) -> None:
        """Let requests wait for their place."""
        self._waiting.extend(seats)

    @property
    def adapters(self) -> set[BankedAdapter]:
        """Adapters of requests in flight."""
        return {a.adapter for a in (*self._rows, *self._waiting) if a.adapter is not None}

    def steps(self) -> Steps[None, None]:
        """Turns until nobody is left; one forward pass a step.

        It runs from now on, not from its first step on: who asks before that must not start it again.
        """
        self.running = True
        return self._turns()

    def _turns(self) -> Steps[None, None]:
        try:
            while self._drop_cancelled():
                if chosen := self._chosen():
                    try:
                        self._admit(chosen)
                    except BaseException as error:
                        for request in chosen:  # no list holds them any more
                            request.fail(error)
                        raise
                    yield
                if self._rows:
                    self._decode()
                    yield
        finally:
            self.running = False
            self._slots.assign_rows([])
            self.close()

    def close(self) -> None:
        """Fail whoever is left: nobody takes further turns."""
        error = BackendError("The backend was closed.", hint="Open the engine again.")
        self._fail_rows(error)
        for seat in self._waiting:
            seat.fail(error)
        self._waiting = []

    def _drop_cancelled(self) -> bool:
        """Let go of those who no longer want an answer; whether anyone is left."""
        for seat in [a for a in self._rows if a.cancel.cancelled]:
            self._leave(seat)
            seat.fail(Cancelled("Stopped as asked; nothing was changed."))
        for seat in [a for a in self._waiting if a.cancel.cancelled]:
            self._waiting.remove(seat)
            seat.fail(Cancelled("Stopped as asked; nothing was changed."))
        return bool(self._rows or self._waiting)

    def _admit(self, chosen: Sequence[ActiveRequest]) -> None:
        """Run prompts and take their first tokens.

        What is not finite reaches its neighbours in a packed row, even through a mask, and an error does
        not tell whose it is. Then each prompt is run by itself.
        """
        try:
            logits, kept = self._prefill(chosen)
        except Exception as error:
            if len(chosen) == 1:
                chosen[0].fail(error)
                return
            logits, kept = None, []
        if logits is None or (len(chosen) > 1 and not logits.isfinite().all()):
            for seat in chosen:
                self._admit([seat])
            return
        for seat, row, on in zip(chosen, kept, self._next(chosen, logits), strict=True):
            if on:
                self._columns.add_row(row)
                self._rows.append(seat)

    def _prefill(
        self, seats: Sequence[ActiveRequest]
    ) -> tuple[Float[Tensor, "B V"], list[list[KeysValues]]]:
        questions = [s.answer.question for s in seats]
        with torch.no_grad(), oom_as_error(self._runtime.device, self._needed(seats), _SMALLER):
            return prefill_prompts(
                self._runtime, [q.prompt for q in questions], [q.adapter for q in questions]
            )

    def _chosen(self) -> list[ActiveRequest]:
        """Who joins now: adapters with the fewest rows first, of those whoever came first.

        So nobody who asks a thousand questions keeps another adapter's waiting. Who would not fit the
        memory waits for the others to end; who would not fit it alone fails.
        """
        rows = Counter(id(a.adapter) for a in self._rows)
        chosen: list[ActiveRequest] = []
        tokens = 0
        while self._waiting and len(self._rows) + len(chosen) < self._most_rows:
            seat = min(self._waiting, key=lambda a: rows[id(a.adapter)])
            tokens += len(seat.answer.question.prompt)
            if chosen and tokens > PROMPT_TOKENS:
                break
            try:
                self._require_room([*chosen, seat])
            except OutOfMemory as error:
                if chosen or self._rows:
                    break
                self._waiting.remove(seat)
                seat.fail(error)
                continue
            self._waiting.remove(seat)
            rows[id(seat.adapter)] += 1
            chosen.append(seat)
        return chosen

    def _require_room(self, joining: Sequence[ActiveRequest]) -> None:
        """Raise `OutOfMemory` unless these fit beside the rows that are there, to their last token."""
        free = self._runtime.free_bytes
        room = None if free is None else free + self._columns.nbytes
        what = f"Answering a prompt of {len(joining[-1].answer.question.prompt):,} tokens"
        require_memory(what, self._needed(joining), room, _SMALLER)

    def _needed(self, joining: Sequence[ActiveRequest]) -> int:
        """Bytes of all rows when each is as long as it may become, and of running what joins."""
        costs, seats = self._runtime.memory_costs, (*self._rows, *joining)
        longest = max((s.answer.longest for s in seats), default=0)
        prompts = sum(costs.prefill_bytes(len(s.answer.question.prompt)) for s in joining)
        return costs.keys_values * self._columns.capacity(len(seats), longest) + prompts

    def _decode(self) -> None:
        """One further token for every row."""
        try:
            with torch.no_grad(), oom_as_error(self._runtime.device, self._needed([]), _SMALLER):
                logits = self._forward()
        except Exception as error:
            self._fail_rows(error)
            return
        rows = list(self._rows)
        for seat, on in zip(rows, self._next(rows, logits), strict=True):
            if not on:
                self._leave(seat)

    def _forward(self) -> Float[Tensor, "B V"]:
        self._slots.assign_rows([a.adapter for a in self._rows])
        ids = to_device(torch.tensor([a.answer.last for a in self._rows]), self._runtime.device)
        return decode_step(self._runtime, ids, self._columns, self._slots)

    def _next(self, seats: Sequence[ActiveRequest], logits: Float[Tensor, "B V"]) -> list[bool]:
        """Give each its next token, and its log-probability at temperature 1; who goes on."""
        logits = logits.float()
        highest, likeliest = logits.max(-1)
        highest, norms = torch.stack([highest, logits.logsumexp(-1)]).tolist()
        likeliest = likeliest.tolist()
        # Only rows that asked for alternatives pay for them.
        tops = {
            i: _likeliest(logits[i], one.answer.top) for i, one in enumerate(seats) if one.answer.top
        }
        going = []
        for i, one in enumerate(seats):
            try:
                if not math.isfinite(norms[i]):
                    raise BackendError(
                        "The model's output is not finite for this prompt.",
                        hint="Look at the adapter's training, or use dtype float32.",
                    )
                token, logit = likeliest[i], highest[i]
                if not one.answer.greedy:
                    token = one.answer.sample(logits[i])
                    logit = float(logits[i, token])
                others = [(other, value - norms[i]) for other, value in tops.get(i, ())]
                going.append(one.push(token, logit - norms[i], others))
            except Exception as error:  # whatever it is, it is this row's alone
                one.fail(error)
                going.append(False)
        return going

    def _leave(self, seat: ActiveRequest) -> None:
        row = self._rows.index(seat)
        self._columns.remove_row(row)
        self._rows[row] = self._rows[-1]
        self._rows.pop()

    def _fail_rows(self, error: BaseException) -> None:
        for seat in self._rows:
            seat.fail(error)
        self._rows, self._columns = [], KVCache()


def _likeliest(logits: Float[Tensor, "V"], count: int) -> list[tuple[int, float]]:
    """The `count` likeliest tokens with their logits, the likeliest first."""
    values, tokens = logits.topk(min(count, len(logits)))
    return list(zip(tokens.tolist(), values.tolist(), strict=True))
