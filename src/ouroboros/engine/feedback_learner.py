"""`FeedbackLearner`: from an adapter's journal to its next version, each event once and in order.

Acknowledging and learning are separate. `submit` makes an event durable; `learn` takes pending events
from the journal, plans one update from them, and commits the result. The head and the applied journal
position move in one compare-and-set, so a crash before it loses no event and one after it applies none
twice; when another process drains the same journal, one of the two starts over.
"""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from ouroboros.backend.base import Backend, TrainJob, UpdateJob
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import UpdateConfig
from ouroboros.domain.errors import (
    Conflict,
    InvalidExample,
    OuroborosError,
    Refused,
    TooLong,
    TrainingFailed,
    explain_system_error,
)
from ouroboros.domain.events import FeedbackGiven
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter, Lesson, Ticket, Version
from ouroboros.domain.verdict import Verdict
from ouroboros.domain.weights import AdapterFiles
from ouroboros.engine.gate import Candidate, JudgedCandidate, PromotionGate
from ouroboros.learning.feedback.log import FeedbackLog
from ouroboros.learning.feedback.plan import UpdatePlan, plan_update
from ouroboros.learning.feedback.rate_limit import UserLimit
from ouroboros.learning.feedback.rehearsal import (
    MAX_REHEARSED,
    needs_rehearsal,
    rehearsal_config,
    rehearsal_rate,
    sample_known_rows,
)
from ouroboros.learning.feedback.signals import row_of
from ouroboros.learning.replay.anchors import list_protected_examples, make_anchor_rows
from ouroboros.registry.adapter_lock import Locks
from ouroboros.registry.async_registry import AsyncRegistry
from ouroboros.registry.fencing import erasure_guard
from ouroboros.registry.journal import JournalEntry
from ouroboros.registry.version_draft import AppliedFeedback
from ouroboros.stores.metadata.base import Fenced

BATCH = 32
"""Pending events that one update learns, at most."""

PROTECTED = 32
"""Known prompts whose answers an update protects, beside plain exchanges."""

CACHED_OUTCOMES = 4096
"""Outcomes kept in memory for callers who wait; older ones are read from the store."""


LogKey: TypeAlias = tuple[AdapterId, int, int]
"""An adapter, where its journal begins, and how often events were erased from it."""

_EVENT_ERRORS = (InvalidExample, TooLong, TrainingFailed, Refused)
"""Errors that an event itself can cause: it is skipped."""


class FeedbackLearner:
    """Learns feedback, adapter by adapter. A head moves under the adapter's lock in `locks`."""

    def __init__(
        self,
        backend: Backend,
        registry: AsyncRegistry,
        gate: PromotionGate,
        locks: Locks,
        limit: UserLimit,
    ) -> None:
        self._backend = backend
        self._registry = registry
        self._gate = gate
        self._locks = locks
        self._limit = limit
        self._logs: dict[LogKey, FeedbackLog] = {}
        self._applied_logs: dict[LogKey, FeedbackLog] = {}
        self._read_locks: defaultdict[AdapterId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._outcomes: OrderedDict[tuple[AdapterId, int], Ticket] = OrderedDict()
        self._background: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop learning in the background. Pending events stay in the journal."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    async def submit(self, adapter: Adapter, event: FeedbackGiven) -> Ticket:
        """Journal an event, unless one with its key is in the journal already.

        Raises `Fenced` if data of the adapter was erased since `adapter` was read: the event may be what
        was to be forgotten.
        """
        row = row_of(event)
        if row is not None:
            await self._backend.check_rows([row])
        async with self._read_locks[adapter.id]:
            log = await self._read_log(adapter)
            seq = log.keys.get(event.key)
            if seq is None:
                seq = await self._registry.journal.append(adapter.id, event, erasure_guard(adapter))
                await self._read_log(adapter)
        return Ticket(adapter.id, seq)

    def drop_cached(self, adapter: AdapterId) -> None:
        """Call when events were erased from an adapter's journal."""
        for logs in (self._logs, self._applied_logs):
            _drop_logs(logs, adapter)
        for outcome in [k for k in self._outcomes if k[0] == adapter]:
            del self._outcomes[outcome]

    async def replay_events(
        self, adapter: Adapter, start: AdapterFiles, to: int, update: UpdateConfig
    ) -> tuple[UpdatePlan, JudgedCandidate | None]:
        """Learn once more, from `start`, the feedback after `adapter.applied` up to event `to`.

        Stores nothing. There is no candidate if the feedback teaches nothing. The result depends on the
        arguments and the journal alone.
        """
        limit = to - adapter.applied
        read = self._registry.journal.read(adapter.id, after=adapter.applied, limit=max(limit, 1))
        entries = [entry for entry in await read if entry.seq <= to]
        log = await self._read_applied(adapter)
        plan = plan_update(_feedback_entries(entries), log.events_up_to(adapter.applied), self._limit)
        if not plan.rows:
            return plan, None
        judged = await self._train_update(adapter, start, plan, update)
        return replace(plan, lessons=_amend_lessons(plan, judged.verdict)), judged

    def learn_later(self, adapter: AdapterId) -> None:
        """Learn pending feedback in the background. A failure leaves it pending for the next call."""
        task = asyncio.create_task(self._learn_in_background(adapter))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def learn(self, adapter_id: AdapterId, cancel: CancellationToken | None = None) -> None:
        """Learn all pending feedback of an adapter.

        A batch that cannot be learned is halved. An event that cannot be learned even alone is skipped,
        with the reason as its lesson. If another program took over meanwhile, or data was erased, it
        begins anew under a new lease.
        """
        while True:
            try:
                async with self._locks[adapter_id]:
                    return await self._learn_pending(adapter_id, cancel)
            except Fenced:
                continue

    async def outcome(self, ticket: Ticket) -> Ticket:
        """Return the ticket with its lesson and version; unchanged while its event is pending."""
        adapter = await self._registry.get_adapter(ticket.adapter)
        if adapter.applied < ticket.event:
            return ticket
        cached = self._outcomes.get((ticket.adapter, ticket.event))
        return cached or await self._look_up_outcome(adapter, ticket.event)

    async def _learn_pending(self, adapter_id: AdapterId, cancel: CancellationToken | None) -> None:
        size = BATCH
        while True:
            try:
                if not await self._learn_batch(adapter_id, size, cancel):
                    return
                size = min(BATCH, 2 * size)
            except Fenced:
                raise
            except Conflict:
                continue
            except Exception as error:
                if not _is_caused_by_events(error):
                    raise
                if size == 1:
                    await self._skip_event(adapter_id, error)
                size = max(1, size // 2)

    async def _learn_in_background(self, adapter_id: AdapterId) -> None:
        try:
            await self.learn(adapter_id)
        except OuroborosError:
            return  # whoever asks for the outcome learns it again, and gets the error

    async def _learn_batch(
        self, adapter_id: AdapterId, size: int, cancel: CancellationToken | None
    ) -> bool:
        """Learn the next `size` pending events; False if there are none."""
        adapter = await self._registry.get_adapter(adapter_id)
        base = await self._backend.base()
        base.fingerprint.require_equal(adapter.base, f"Adapter {adapter.id.name!r}")
        entries = await self._registry.journal.read(adapter_id, after=adapter.applied, limit=size)
        if not entries:
            return False
        log = await self._read_applied(adapter)
        plan = plan_update(_feedback_entries(entries), log.events_up_to(adapter.applied), self._limit)
        await self._apply(adapter, plan, entries[-1].seq, size == 1, cancel)
        return True

    async def _apply(
        self,
        adapter: Adapter,
        plan: UpdatePlan,
        to: int,
        alone: bool,
        cancel: CancellationToken | None,
    ) -> None:
        """Train the plan's rows, if it has any, and mark the journal as applied up to `to`.

        Raises `Refused` if the gate refuses a batch: its events are tried one by one. A refused update
        of an event `alone` is stored unserved, with the reason as the event's lesson.
        """
        head = await self._registry.get_version(VersionRef(adapter.id))
        if not plan.rows:
            await self._registry.mark_applied(adapter.id, since=adapter.applied, to=to)
            return self._cache_outcomes(adapter.id, plan.lessons, head)
        start = await self._registry.load_files(head)
        update = UpdateConfig()
        judged = await self._train_update(adapter, start, plan, update, cancel)
        if not judged.verdict.promoted and not alone:
            raise Refused("Together these events would make the adapter worse.")
        lessons = _amend_lessons(plan, judged.verdict)
        version = await self._gate.commit_judged(
            adapter.id,
            judged,
            parent=head.number,
            cause="feedback",
            events=to,
            feedback=AppliedFeedback(adapter.applied, to, lessons, update),
        )
        return self._cache_outcomes(adapter.id, lessons, head if version.refused else version)

    async def _train_update(
        self,
        adapter: Adapter,
        start: AdapterFiles,
        plan: UpdatePlan,
        update: UpdateConfig,
        cancel: CancellationToken | None = None,
    ) -> JudgedCandidate:
        """Train the plan's rows on `start`, and judge the result."""
        rows, new_prompts = plan.rows, {row.prompt for row in plan.rows}
        knowledge = await self._gate.knowledge(adapter)
        known = knowledge.list_replay_rows()
        # A projected update is fast and protects known answers. With little knowledge, or many
        # judgements at once, it has no room: known rows are rehearsed instead.
        if needs_rehearsal(len(rows), len(known), knowledge.complete):
            training = rehearsal_config(len(rows), adapter.applied, update)
            rehearsed = sample_known_rows(known, new_prompts, MAX_REHEARSED, adapter.applied)
            config = rehearsal_rate(adapter.config)
            job = TrainJob(start, config, training, rows, rehearsed, anchors=make_anchor_rows())
            outcome = await self._backend.train(job, cancel=cancel)
        else:
            protect = list_protected_examples(
                sample_known_rows(known, new_prompts, PROTECTED, adapter.applied)
            )
            update_job = UpdateJob(start, adapter.config, rows, protect, update)
            outcome = await self._backend.update(update_job, cancel=cancel)
        candidate = Candidate(start, outcome, rows, knowledge.list_probes(), small=True)
        return await self._gate.judge(adapter.id, candidate, cancel=cancel)

    async def _skip_event(self, adapter_id: AdapterId, error: Exception) -> None:
        """Mark the next event as applied without learning it; its lesson is the error."""
        adapter = await self._registry.get_adapter(adapter_id)
        (entry,) = await self._registry.journal.read(adapter_id, after=adapter.applied, limit=1)
        head = await self._registry.get_version(VersionRef(adapter_id))
        await self._registry.mark_applied(adapter_id, since=adapter.applied, to=entry.seq)
        words = f"{error}" if isinstance(error, OuroborosError) else f"{type(error).__name__}: {error}"
        lesson = Lesson(entry.seq, f"not learned: {words}", learned=False)
        self._cache_outcomes(adapter_id, (lesson,), head)

    def _cache_outcomes(self, adapter: AdapterId, lessons: tuple[Lesson, ...], version: Version) -> None:
        for lesson in lessons:
            self._outcomes[adapter, lesson.event] = Ticket(adapter, lesson.event, lesson, version)
        while len(self._outcomes) > CACHED_OUTCOMES:
            self._outcomes.popitem(last=False)

    async def _look_up_outcome(self, adapter: Adapter, event: int) -> Ticket:
        """Read an outcome from the lessons of a version, or else plan the event once more."""
        head = await self._registry.get_version(VersionRef(adapter.id))
        for version in reversed(await self._registry.list_versions(adapter.id)):
            for lesson in version.lessons:
                if lesson.event == event:
                    return Ticket(adapter.id, event, lesson, head if version.refused else version)
        async with self._read_locks[adapter.id]:
            judged = (await self._read_log(adapter)).events_up_to(event)
        (lesson,) = plan_update(judged[-1:], judged[:-1], self._limit).lessons or (
            Lesson(event, "applied"),
        )
        return Ticket(adapter.id, event, lesson, head)

    async def _read_applied(self, adapter: Adapter) -> FeedbackLog:
        """The log of applied events and of no later ones, so that a replay plans the same update."""
        key = (adapter.id, adapter.born, adapter.erasures)
        log = self._applied_logs.get(key)
        if log is None:
            _drop_logs(self._applied_logs, adapter.id)
        if log is None or log.read_to > adapter.applied:
            log = FeedbackLog(adapter.born)
        while log.read_to < adapter.applied:
            entries = await self._registry.journal.read(adapter.id, after=log.read_to)
            for entry in entries:
                if entry.seq <= adapter.applied:
                    log.add_event(entry.seq, entry.event)
            if not entries or entries[-1].seq >= adapter.applied:
                log.read_to = adapter.applied  # the events in between were erased
        self._applied_logs[key] = log
        return log

    async def _read_log(self, adapter: Adapter) -> FeedbackLog:
        """The adapter's log, up to the end of the journal."""
        key = (adapter.id, adapter.born, adapter.erasures)
        log = self._logs.get(key)
        if log is None:
            _drop_logs(self._logs, adapter.id)
            log = self._logs[key] = FeedbackLog(adapter.born)
        while entries := await self._registry.journal.read(adapter.id, after=log.read_to):
            for entry in entries:
                log.add_event(entry.seq, entry.event)
        return log


def _is_caused_by_events(error: Exception) -> bool:
    """Whether to blame the events: for errors that events can cause, and for those that nobody foresaw.

    Such an event must not stop the next ones. Errors of the store, the machine or the model, and a
    cancellation, leave the events pending.
    """
    if isinstance(error, OuroborosError):
        return isinstance(error, _EVENT_ERRORS)
    return explain_system_error(error) is None


def _drop_logs(logs: dict[LogKey, FeedbackLog], adapter: AdapterId) -> None:
    for key in [k for k in logs if k[0] == adapter]:
        del logs[key]


def _amend_lesson(lesson: Lesson, verdict: Verdict) -> Lesson:
    """The lesson, with a note if the gate refused the update or walked it back."""
    if not verdict.promoted:
        failed = ", ".join(dict.fromkeys(check.name.value for check in verdict.failed_checks))
        words = f"not learned, the gate refused it ({failed}): {lesson.words}"
        return replace(lesson, words=words, learned=False)
    if verdict.share < 1 and lesson.learned:
        words = f"{lesson.words}; {verdict.share:.0%} of the way, as far as the gate allowed"
        return replace(lesson, words=words)
    return lesson


def _amend_lessons(plan: UpdatePlan, verdict: Verdict) -> tuple[Lesson, ...]:
    """The plan's lessons, each with the gate's note."""
    return tuple(_amend_lesson(lesson, verdict) for lesson in plan.lessons)


def _feedback_entries(entries: Sequence[JournalEntry]) -> list[tuple[int, FeedbackGiven]]:
    return [(e.seq, e.event) for e in entries if isinstance(e.event, FeedbackGiven)]
