"""Answering with an adapter, and judging its answers against those expected."""

from collections.abc import AsyncIterator
from dataclasses import replace

from ouroboros.backend.base import GenerateRequest, GenerationChunk
from ouroboros.data.sources import Source
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.data import Continuation, Prompt, check_prompt
from ouroboros.domain.errors import InvalidInput, OuroborosError
from ouroboros.domain.generation import Generation, GenerationConfig
from ouroboros.domain.names import AUTO_ADAPTER, AdapterId, VersionRef
from ouroboros.domain.result import Err, Ok, Result
from ouroboros.domain.results import Evaluation
from ouroboros.domain.routing import RouteMatch
from ouroboros.engine.checks import load_examples, read_prompt
from ouroboros.engine.core import Core, verb
from ouroboros.engine.instructions import add_instructions


class GenerationVerbs(Core):
    """Generate and stream answers, and evaluate adapters on examples."""

    @verb
    async def generate_with_adapter(
        self,
        prompt: Prompt | Continuation,
        adapter_id: str | AdapterId | VersionRef | None = None,
        config: GenerationConfig | None = None,
        *,
        cancel: CancellationToken | None = None,
    ) -> Generation:
        """Answer `prompt` with an adapter's head, with one version, or with the base.

        Args:
            prompt: plain text, messages, or a `Continuation`, whose text is continued as it stands.
                Plain text is asked under the instructions of the version's last training
                (`get_instructions`); give messages to ask otherwise.
            adapter_id: "tickets" or "tickets@3"; None is the base. "auto" takes the adapter that
                matches the prompt, or the base if none is sure to; `route` of the result says which
                and why.
            config: `max_tokens`, `temperature`, `top_p`, `seed`, `stop`; greedy by default.
            cancel: stops after the current token.

        Returns:
            The text, its tokens with their log-probabilities in nats, and why it ended. Err: `NotFound`
            for an unknown adapter (never an answer from the base), `TooLong` if the prompt does not fit
            the context, `InvalidExample`, `InvalidConfig`, `BaseMismatch`, `OutOfMemory`, `Cancelled`.
        """
        request, version, match = await self._prepare_request(prompt, adapter_id, config)
        (generation,) = await self._backend.generate([request], cancel)
        return replace(generation, version=version, route=match)

    async def stream_with_adapter(
        self,
        prompt: Prompt | Continuation,
        adapter_id: str | AdapterId | VersionRef | None = None,
        config: GenerationConfig | None = None,
        *,
        cancel: CancellationToken | None = None,
    ) -> AsyncIterator[Result[GenerationChunk]]:
        """As `generate_with_adapter`, in pieces: yields `Ok` for each, or one `Err` as the last.

        The last piece has the whole `generation`.
        """
        try:
            self._require_open()
            request, version, match = await self._prepare_request(prompt, adapter_id, config)
            async for chunk in self._backend.stream(request, cancel):
                if chunk.generation is not None:
                    whole = replace(chunk.generation, version=version, route=match)
                    chunk = replace(chunk, generation=whole)
                yield Ok(chunk)
        except OuroborosError as error:
            yield Err(error)

    @verb
    async def get_instructions(self, adapter_id: str | AdapterId | VersionRef) -> str:
        """Return the system prompt that all examples share that a version was trained on.

        Plain text is asked under it. It is empty if the examples had none, or different ones.
        """
        return await self._instructions.read(VersionRef.parse(adapter_id))

    @verb
    async def evaluate_adapter(
        self,
        adapter_id: str | AdapterId | VersionRef | None,
        examples: Source,
        *,
        cancel: CancellationToken | None = None,
    ) -> Evaluation:
        """Compare the greedy answer to every example's input with its output.

        Args:
            adapter_id: an adapter, or one version ("tickets@2"); None evaluates the base model.
            examples: as for `train_adapter`.

        Returns:
            Which answers are right, the answers, and the mean log-probability of the expected outputs.
            Err if an example is not valid or does not fit into the context, or the adapter is unknown.
        """
        return await self._evaluator.evaluate(adapter_id, await load_examples(examples), cancel)

    async def _prepare_request(
        self,
        prompt: Prompt | Continuation,
        adapter_id: str | AdapterId | VersionRef | None,
        config: GenerationConfig | None,
    ) -> tuple[GenerateRequest, str | None, RouteMatch | None]:
        """The request for the backend, the version that answers, and how "auto" chose it."""
        config = config or GenerationConfig()
        prompt = read_prompt(prompt)
        if isinstance(prompt, Continuation):
            prompt.check()
        else:
            check_prompt("prompt", prompt)
        config.check()
        match = None
        if str(adapter_id) == AUTO_ADAPTER:
            match = await self._router.find_best(_routing_text(prompt))
            adapter_id = match.adapter if match and match.sure else None
        digest, version = await self._loader.load(adapter_id)
        if isinstance(prompt, str) and version:
            prompt = add_instructions(prompt, await self._instructions.read(VersionRef.parse(version)))
        return GenerateRequest(prompt, config, digest), version, match


def _routing_text(prompt: Prompt | Continuation) -> Prompt:
    """What an adapter is chosen by. Token ids alone do not say what they are about."""
    if not isinstance(prompt, Continuation):
        return prompt
    if isinstance(prompt.text, str):
        check_prompt("prompt", prompt.text)
        return prompt.text
    raise InvalidInput(
        "No adapter can be chosen for a prompt of token ids.", hint="Name the adapter, or give text."
    )
