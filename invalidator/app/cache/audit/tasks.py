"""Comparing hits in tasks of the event loop that read them."""

import asyncio
from collections.abc import Callable

from invalidator.app.cache.audit.comparison import AuditOutcome
from invalidator.app.cache.audit.hits import LIMIT, AuditSource, Hit, HitAudit
from invalidator.app.cache.commands import Load, Wait
from invalidator.app.cache.fork import begin_anew_after_fork
from invalidator.app.cache.freshness import as_loaded
from invalidator.app.cache.items import Serializer
from invalidator.app.cache.nodes.async_nodes import AsyncNodes


class AuditTasks(HitAudit):
    """The audit of an `AsyncLookAsideCache`, for any number of event loops."""

    def __init__(
        self, share: float, source: AuditSource | None, serializer: Serializer, nodes: Callable[[], AsyncNodes]
    ) -> None:
        super().__init__(share, source, serializer, nodes)
        self.begin_in_child()
        begin_anew_after_fork(self)

    def begin_in_child(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        for task in list(self._tasks):
            if not (loop := task.get_loop()).is_closed():
                loop.call_soon_threadsafe(task.cancel)

    def _is_full(self) -> bool:
        if len(self._tasks) >= LIMIT:  # a loop that was closed ends its tasks without a word
            self._tasks -= {task for task in list(self._tasks) if task.get_loop().is_closed()}
        return len(self._tasks) >= LIMIT

    def _start(self, hit: Hit) -> None:
        task = asyncio.get_running_loop().create_task(self._compare(hit))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _compare(self, hit: Hit) -> None:
        try:
            command = next(hit.steps)
            while True:
                if isinstance(command, Load):
                    command = hit.steps.send(as_loaded(await hit.read()))
                elif isinstance(command, Wait):
                    await asyncio.sleep(command.seconds)
                    command = next(hit.steps)
                else:
                    command = hit.steps.send((await self._nodes().answer([command]))[0])
        except StopIteration as end:
            self.account.count(hit.key, end.value)
        except asyncio.CancelledError:
            self.account.count(hit.key, AuditOutcome.UNDECIDED)
            raise
        except Exception as error:  # noqa: BLE001  the application's load may raise anything
            self.account.failed(hit.key, error)
