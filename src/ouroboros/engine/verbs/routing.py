"""Finding the adapter that knows a task."""

from ouroboros.domain.checks import check_int
from ouroboros.domain.data import Prompt, check_prompt
from ouroboros.domain.routing import RouteMatch
from ouroboros.engine.core import Core, verb


class RoutingVerbs(Core):
    """Find the adapters that match a prompt."""

    @verb
    async def find_adapters(self, text: Prompt, k: int = 5) -> list[RouteMatch]:
        """The `k` adapters nearest to a prompt or to words about a task, the nearest first.

        Near is what is like the examples that an adapter learned, or like its description if there are
        none. Whether it is near enough, each finding says (`sure`).
        """
        check_prompt("text", text)
        check_int("k", k, 1, 1_000_000)
        return await self._router.find(text, k)
