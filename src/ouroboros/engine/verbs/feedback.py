"""Learning from what people say of an answer."""

from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.data import Prompt
from ouroboros.domain.errors import InvalidExample
from ouroboros.domain.events import FeedbackGiven
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.generation import Generation
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter, Ticket
from ouroboros.engine.checks import raise_if_cancelled, read_prompt
from ouroboros.engine.core import Core, verb
from ouroboros.engine.instructions import add_instructions
from ouroboros.learning.feedback.signals import feedback_event, row_of

CHECKED = AdapterId("checked")
"""Stands for the adapter of a judgement that is checked for no adapter."""


class FeedbackVerbs(Core):
    """Learn from judgements of answers, and report what became of them."""

    @verb
    async def learn_from_feedback(
        self,
        prompt: Prompt,
        generation: str | Generation,
        feedback: FeedbackSignal,
        adapter_id: str | AdapterId,
        *,
        user: str | None = None,
        key: str | None = None,
        wait: bool = True,
        cancel: CancellationToken | None = None,
    ) -> Ticket:
        """Learn from a user's judgement of an answer; the ticket tells what became of it.

        Plain text was asked under the instructions that the answering version was trained with.
        The judgement is journalled first. With `wait` the ticket holds the lesson and the new version;
        without, learning goes on in the background and `feedback_outcome` tells. Once journalled it will
        be learned, even if the caller is cancelled or the program killed. Giving it again under the same
        `key` changes nothing; without a key, the same words on the same answer of the same version are
        the same judgement. How much one `user` can teach in a while is limited.
        """
        adapter = await self._loader.get_adapter(VersionRef.parse(adapter_id).adapter)
        answered = await self._find_answering_version(adapter, generation)
        prompt = add_instructions(read_prompt(prompt), await self._instructions.read(answered))
        event = feedback_event(prompt, generation, feedback, answered, user=user, key=key)
        raise_if_cancelled(cancel)
        ticket = await self._submit(adapter, event)
        if not wait:
            self._feedback_learner.learn_later(adapter.id)
            return ticket
        await self._feedback_learner.learn(adapter.id, cancel)
        return await self._feedback_learner.outcome(ticket)

    @verb
    async def check_feedback(
        self,
        prompt: Prompt,
        generation: str | Generation,
        feedback: FeedbackSignal,
        *,
        user: str | None = None,
        key: str | None = None,
    ) -> None:
        """Whether a judgement can be learned: its texts are valid and fit the model's context.

        Nothing is journalled. Check all judgements of a file first, to record all of them or none.
        """
        prompt = read_prompt(prompt)
        event = feedback_event(prompt, generation, feedback, VersionRef(CHECKED), user=user, key=key)
        event.check()
        row = row_of(event)
        if row is not None:
            await self._backend.check_rows([row])

    @verb
    async def record_feedback(
        self,
        prompt: Prompt,
        generation: str | Generation,
        feedback: FeedbackSignal,
        adapter_id: str | AdapterId,
        *,
        user: str | None = None,
        key: str | None = None,
    ) -> Ticket:
        """Record a judgement as `learn_from_feedback` does, to learn it later with others.

        `learn_pending` learns what was recorded, and so does the next judgement that is learned.
        """
        adapter = await self._loader.get_adapter(VersionRef.parse(adapter_id).adapter)
        answered = await self._find_answering_version(adapter, generation)
        prompt = add_instructions(read_prompt(prompt), await self._instructions.read(answered))
        event = feedback_event(prompt, generation, feedback, answered, user=user, key=key)
        return await self._submit(adapter, event)

    @verb
    async def feedback_outcome(
        self, ticket: Ticket, *, cancel: CancellationToken | None = None
    ) -> Ticket:
        """Wait until a judgement has been learned; returns its ticket with lesson and version."""
        await self._feedback_learner.learn(ticket.adapter, cancel)
        return await self._feedback_learner.outcome(ticket)

    @verb
    async def look_up_feedback(self, ticket: Ticket) -> Ticket:
        """Return a judgement's ticket without waiting; a pending one has no lesson yet."""
        return await self._feedback_learner.outcome(ticket)

    @verb
    async def learn_pending(
        self, adapter_id: str | AdapterId | None = None, *, cancel: CancellationToken | None = None
    ) -> list[Adapter]:
        """Learn pending feedback of one adapter or all; returns the adapters that learned any."""
        moved = []
        for adapter in await self._loader.list_adapters(adapter_id):
            await self._feedback_learner.learn(adapter.id, cancel)
            now = await self._registry.get_adapter(adapter.id)
            if now.applied > adapter.applied:
                moved.append(now)
        return moved

    async def _submit(self, adapter: Adapter, event: FeedbackGiven) -> Ticket:
        """Journal a judgement, and see whether it shows that the head is worse than its parents."""
        event.check()
        ticket = await self._feedback_learner.submit(adapter, event)
        await self._monitor.roll_back_if_worse(adapter.id, ticket.event)
        return ticket

    async def _find_answering_version(
        self, adapter: Adapter, generation: str | Generation
    ) -> VersionRef:
        """The version of this adapter that gave an answer; the head if nothing says otherwise."""
        if isinstance(generation, str) or generation.version is None:
            return VersionRef(adapter.id, adapter.head)
        ref = VersionRef.parse(generation.version)
        if ref.adapter != adapter.id:
            raise InvalidExample(
                f"The answer came from {ref}, not from {adapter.id}.",
                hint=f"Give the feedback to {ref.adapter}.",
            )
        return (await self._registry.get_version(ref)).ref
