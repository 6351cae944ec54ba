"""The vhost of a trial, as an operator sees it: through the management API, and by looking at queues."""

import asyncio
import time
from typing import Any

from tests.faults.queues import Queues
from tests.servers import Broker, ServerError


class Vhost:
    """One vhost, made here."""

    def __init__(self, broker: Broker, name: str) -> None:
        self._broker = broker
        self.name = name
        self.url = broker.add_vhost(name)
        self._queues = Queues(self.url)

    async def delete(self, queue: str, what: str = "") -> float:
        """Delete a queue, or only its contents; return when that was done, in seconds since 1970."""
        await self._api("DELETE", f"/queues/{self.name}/{queue}{what}")
        return time.time()

    async def apply(self, queue: str, definition: dict[str, Any]) -> None:
        """Apply a policy to a queue, in the place of the one before; an empty one removes it."""
        path = f"/policies/{self.name}/trial"
        if definition:
            pattern = f"^{queue.replace('.', '[.]')}$"
            await self._api("PUT", path, {"pattern": pattern, "definition": definition, "apply-to": "queues"})
        else:
            await self._api("DELETE", path)

    async def exists(self, queue: str) -> bool:
        """Return True if there is such a queue; to look over AMQP would count as a use of it."""
        try:
            await self._api("GET", f"/queues/{self.name}/{queue}")
        except (ServerError, OSError):
            return False
        return True

    async def ready(self, queue: str) -> int:
        """Return the number of messages that wait in a queue; -1 if that cannot be said."""
        return (await self._queues.ready([queue]) or {}).get(queue, -1)

    async def close(self) -> None:
        """Delete the vhost with all that is in it."""
        await self._queues.close()
        await asyncio.to_thread(self._broker.delete_vhost, self.name)

    async def _api(self, method: str, path: str, body: Any = None) -> Any:
        return await asyncio.to_thread(self._broker.api, method, path, body)
