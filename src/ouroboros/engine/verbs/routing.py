"""Finding the adapter that knows a task."""

from ouroboros.domain.checks import check_int
from ouroboros.domain.data import Prompt, check_prompt
from ouroboros.domain.routing import RouteMatch
from ouroboros.engine.core import Core, verb


class RoutingVerbs(Core):
    """Find the adapters that match a prompt."""

    @verb
    async def find_adapters(self, text: Prompt, k: int = 5) -> list[RouteMatch]:
        """Find the `k` adapters that match a prompt, or words about a task, best first.

        An adapter is matched by the examples that it learned, or by its description before the first.

        Returns:
            The matches with their similarity, from -1 to 1, and whether each is near enough (`sure`) to
            answer. Err: `InvalidExample` for an empty prompt, `InvalidConfig` if `k` is below 1.
        """
        check_prompt("text", text)
        check_int("k", k, 1, 1_000_000)
        return await self._router.find(text, k)
