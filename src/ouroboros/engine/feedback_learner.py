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
    REPEATED,
    choose_rows,
    needs_rehearsal,
    rehearsal_config,
    rehearsal_rate,
)
from ouroboros.learning.feedback.signals import teach, unpaired_loss
from ouroboros.learning.replay.anchors import anchor_rows, select_protected
from ouroboros.registry.adapter_lock import Locks
from ouroboros.registry.async_registry import AsyncRegistry
from ouroboros.registry.journal import JournalEntry
from ouroboros.registry.version_draft import AppliedFeedback

BATCH = 32
"""Events worked in together, at most, when many are pending."""

PROTECTED = 32
"""Known prompts that an update keeps away from, beside plain exchanges."""

REMEMBERED = 4096
"""Outcomes kept at hand for those who wait; older ones are looked up."""


_FAULTS = (InvalidExample, TooLong, TrainingFailed, Refused)
"""What an event can be at fault for; anything else leaves it pending."""


class FeedbackLearner:
    """Learns feedback, adapter by adapter. `writing` holds the locks under which heads move."""

    def __init__(
        self,
        backend: Backend,
        registry: AsyncRegistry,
        gate: PromotionGate,
        writing: Locks,
        limit: UserLimit,
    ) -> None:
        self._backend = backend
        self._registry = registry
        self._gate = gate
        self._writing = writing
        self._limit = limit
        self._memories: dict[tuple[AdapterId, int], FeedbackLog] = {}
        self._settled_memories: dict[tuple[AdapterId, int], FeedbackLog] = {}
        self._reading: defaultdict[AdapterId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._done: OrderedDict[tuple[AdapterId, int], Ticket] = OrderedDict()
        self._background: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop learning in the background; what is pending stays in the journal."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    async def submit(self, adapter: Adapter, event: FeedbackGiven) -> Ticket:
        """Journal an event; one whose key is known already is not journalled again."""
        row = teach(event, unpaired_loss([event])).row
        if row is not None:
            await self._backend.check([row])
        async with self._reading[adapter.id]:
            memory = await self._read(adapter)
            known = memory.keys.get(event.key)
            if known is None:
                known = await self._registry.journal.append(adapter.id, event)
                await self._read(adapter)
        return Ticket(adapter.id, known)

    def drop_cached(self, adapter: AdapterId) -> None:
        """Call when events were erased from an adapter's journal."""
        for memories in (self._memories, self._settled_memories):
            for key in [k for k in memories if k[0] == adapter]:
                del memories[key]
        for done in [k for k in self._done if k[0] == adapter]:
            del self._done[done]

    async def replay_events(
        self, adapter: Adapter, start: AdapterFiles, to: int, update: UpdateConfig
    ) -> tuple[UpdatePlan, JudgedCandidate | None]:
        """Learn the judgements after what `adapter` has applied, up to `to`, once more, from `start`.

        Nothing is stored; None if they teach nothing. Depends on its arguments and the journal alone.
        """
        limit = to - adapter.applied
        read = self._registry.journal.read(adapter.id, after=adapter.applied, limit=max(limit, 1))
        entries = [entry for entry in await read if entry.seq <= to]
        memory = await self._settled(adapter)
        made = plan_update(_judgements(entries), memory.judged(adapter.applied), self._limit)
        if not made.rows:
            return made, None
        judged = await self._update(adapter, start, made, update)
        return replace(made, lessons=_lessons(made, judged.verdict)), judged

    def learn_later(self, adapter: AdapterId) -> None:
        """Learn what is pending, in the background. A failure leaves it pending for the next."""
        task = asyncio.create_task(self._learn_quietly(adapter))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def learn(self, adapter_id: AdapterId, cancel: CancellationToken | None = None) -> None:
        """Learn everything that is pending for an adapter.

        A batch that cannot be learned is halved; an event that cannot be learned even alone is passed
        over, with the reason as its lesson.
        """
        async with self._writing[adapter_id]:
            size = BATCH
            while True:
                try:
                    if not await self._learn_batch(adapter_id, size, cancel):
                        return
                    size = min(BATCH, 2 * size)
                except _FAULTS as error:
                    if size == 1:
                        await self._pass_over(adapter_id, error)
                    size = max(1, size // 2)
                except Conflict:
                    continue

    async def outcome(self, ticket: Ticket) -> Ticket:
        """The ticket with its lesson and version, if its event has been applied; else as it is."""
        adapter = await self._registry.get(ticket.adapter)
        if adapter.applied < ticket.event:
            return ticket
        done = self._done.get((ticket.adapter, ticket.event))
        return done or await self._look_up(adapter, ticket.event)

    async def _learn_quietly(self, adapter_id: AdapterId) -> None:
        try:
            await self.learn(adapter_id)
        except OuroborosError:
            return  # nobody waits here; whoever asks for the outcome learns, and is told

    async def _learn_batch(
        self, adapter_id: AdapterId, size: int, cancel: CancellationToken | None
    ) -> bool:
        """Learn the next `size` pending events; False if there are none."""
        adapter = await self._registry.get(adapter_id)
        base = await self._backend.base()
        base.fingerprint.require(adapter.base, f"Adapter {adapter.id.name!r}")
        entries = await self._registry.journal.read(adapter_id, after=adapter.applied, limit=size)
        if not entries:
            return False
        memory = await self._settled(adapter)
        made = plan_update(_judgements(entries), memory.judged(adapter.applied), self._limit)
        await self._apply(adapter, made, entries[-1].seq, size == 1, cancel)
        return True

    async def _apply(
        self,
        adapter: Adapter,
        made: UpdatePlan,
        to: int,
        alone: bool,
        cancel: CancellationToken | None,
    ) -> None:
        """Train the plan's rows, if there are any, and move the adapter on to `to`.

        If the gate refuses the result, `Refused`: the events are to be tried one by one. That of an
        event `alone` is kept instead, unserved, with the reason as the event's lesson.
        """
        head = await self._registry.version(VersionRef(adapter.id))
        if not made.rows:
            await self._registry.mark_applied(adapter.id, since=adapter.applied, to=to)
            return self._remember(adapter.id, made.lessons, head)
        start = await self._registry.files(head)
        update = UpdateConfig()
        judged = await self._update(adapter, start, made, update, cancel)
        if not judged.verdict.promoted and not alone:
            raise Refused("Together these events would make the adapter worse.")
        lessons = _lessons(made, judged.verdict)
        version = await self._gate.commit_judged(
            adapter.id,
            judged,
            parent=head.number,
            cause="feedback",
            events=to,
            taught=AppliedFeedback(adapter.applied, to, lessons, update),
        )
        return self._remember(adapter.id, lessons, head if version.refused else version)

    async def _update(
        self,
        adapter: Adapter,
        start: AdapterFiles,
        made: UpdatePlan,
        update: UpdateConfig,
        cancel: CancellationToken | None = None,
    ) -> JudgedCandidate:
        """Work the plan's rows into `start`, and put what came of it to the gate."""
        rows, judged = made.rows, {row.prompt for row in made.rows}
        knowledge = await self._gate.knowledge(adapter)
        known = knowledge.rows()
        if needs_rehearsal(len(rows), len(known), knowledge.whole):
            training = rehearsal_config(len(rows), adapter.applied, update)
            again = choose_rows(known, judged, REPEATED, adapter.applied)
            config = rehearsal_rate(adapter.config)
            job = TrainJob(start, config, training, rows, again, anchors=anchor_rows())
            outcome = await self._backend.train(job, cancel=cancel)
        else:
            protect = select_protected(choose_rows(known, judged, PROTECTED, adapter.applied))
            careful = UpdateJob(start, adapter.config, rows, protect, update)
            outcome = await self._backend.update(careful, cancel=cancel)
        candidate = Candidate(start, outcome, rows, knowledge.probes(), small=True)
        return await self._gate.judge(adapter.id, candidate, cancel=cancel)

    async def _pass_over(self, adapter_id: AdapterId, error: OuroborosError) -> None:
        adapter = await self._registry.get(adapter_id)
        (entry,) = await self._registry.journal.read(adapter_id, after=adapter.applied, limit=1)
        head = await self._registry.version(VersionRef(adapter_id))
        await self._registry.mark_applied(adapter_id, since=adapter.applied, to=entry.seq)
        self._remember(adapter_id, (Lesson(entry.seq, f"not learned: {error}"),), head)

    def _remember(self, adapter: AdapterId, lessons: tuple[Lesson, ...], version: Version) -> None:
        for lesson in lessons:
            self._done[adapter, lesson.event] = Ticket(adapter, lesson.event, lesson, version)
        while len(self._done) > REMEMBERED:
            self._done.popitem(last=False)

    async def _look_up(self, adapter: Adapter, event: int) -> Ticket:
        """An outcome from what is durable: a version's lessons, or the journal."""
        head = await self._registry.version(VersionRef(adapter.id))
        for version in reversed(await self._registry.versions(adapter.id)):
            for lesson in version.lessons:
                if lesson.event == event:
                    return Ticket(adapter.id, event, lesson, head if version.refused else version)
        async with self._reading[adapter.id]:
            judged = (await self._read(adapter)).judged(event)
        (lesson,) = plan_update(judged[-1:], judged[:-1], self._limit).lessons or (
            Lesson(event, "applied"),
        )
        return Ticket(adapter.id, event, lesson, head)

    async def _settled(self, adapter: Adapter) -> FeedbackLog:
        """A memory of what has been applied and of nothing later, so that it can be had again."""
        memory = self._settled_memories.get((adapter.id, adapter.born))
        if memory is None or memory.read_to > adapter.applied:
            memory = FeedbackLog(adapter.born)
        while memory.read_to < adapter.applied:
            entries = await self._registry.journal.read(adapter.id, after=memory.read_to)
            for entry in entries:
                if entry.seq <= adapter.applied:
                    memory.take(entry.seq, entry.event)
            if not entries or entries[-1].seq >= adapter.applied:
                memory.read_to = adapter.applied  # what is missing has been erased
        self._settled_memories[adapter.id, adapter.born] = memory
        return memory

    async def _read(self, adapter: Adapter) -> FeedbackLog:
        """The adapter's memory, up to the journal's end."""
        memory = self._memories.setdefault((adapter.id, adapter.born), FeedbackLog(adapter.born))
        while entries := await self._registry.journal.read(adapter.id, after=memory.read_to):
            for entry in entries:
                memory.take(entry.seq, entry.event)
        return memory


def _told(lesson: Lesson, verdict: Verdict) -> Lesson:
    """A lesson with what the gate made of it, where that is not simply yes."""
    if not verdict.promoted:
        failed = ", ".join(dict.fromkeys(check.name.value for check in verdict.failed))
        words = f"not learned, the gate refused it ({failed}): {lesson.words}"
        return replace(lesson, words=words, learned=False)
    if verdict.share < 1 and lesson.learned:
        words = f"{lesson.words}; {verdict.share:.0%} of the way, as far as the gate allowed"
        return replace(lesson, words=words)
    return lesson


def _lessons(made: UpdatePlan, verdict: Verdict) -> tuple[Lesson, ...]:
    """The plan's lessons, as the gate left them."""
    return tuple(_told(lesson, verdict) for lesson in made.lessons)


def _judgements(entries: Sequence[JournalEntry]) -> list[tuple[int, FeedbackGiven]]:
    return [(e.seq, e.event) for e in entries if isinstance(e.event, FeedbackGiven)]
