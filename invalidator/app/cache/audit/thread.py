"""Comparing hits in a daemon thread, which starts with the first hit of the sample.

begin ─> queue ─> the thread: gets, load ── the same? ─> counted
                      ▲           └── 2 s later ──┐
                      └───────── settling <───────┘

The thread knows no cache, and keeps nothing of a hit's caller while it waits. So a cache that is dropped without
`close` is collected, and ends its thread then.
"""

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from queue import Empty, SimpleQueue
from typing import Any

from invalidator.app.cache.audit.account import Account
from invalidator.app.cache.audit.comparison import AuditOutcome
from invalidator.app.cache.audit.hits import LIMIT, AuditSource, Hit, HitAudit
from invalidator.app.cache.commands import Load, Wait
from invalidator.app.cache.fork import begin_anew_after_fork
from invalidator.app.cache.freshness import as_loaded
from invalidator.app.cache.items import Serializer
from invalidator.app.cache.nodes.blocking_nodes import BlockingNodes


class AuditThread(HitAudit):
    """The audit of a `LookAsideCache`. After a fork the child begins with a thread of its own."""

    def __init__(
        self, share: float, source: AuditSource | None, serializer: Serializer, nodes: Callable[[], BlockingNodes]
    ) -> None:
        super().__init__(share, source, serializer, nodes)
        self.begin_in_child()
        begin_anew_after_fork(self)

    def begin_in_child(self) -> None:
        self._starting = threading.Lock()
        self._running: Comparing | None = None

    def close(self) -> None:
        running, self._running = self._running, None
        if running:
            self._end()

    def _is_full(self) -> bool:
        return self._running is not None and self._running.under_way() >= LIMIT

    def _start(self, hit: Hit) -> None:
        with self._starting:
            running = self._running = self._running or self._begun()
        running.add(hit)

    def _begun(self) -> "Comparing":
        """Start a thread, which ends with this object at the latest."""
        running = Comparing(self._nodes().apart(), self.account)
        self._end = weakref.finalize(self, running.close)
        return running


class Comparing:
    """The thread, with connections of its own: an exchange with a node that hangs delays no reader."""

    def __init__(self, nodes: BlockingNodes, account: Account) -> None:
        self._nodes = nodes
        self._account = account
        #: Hits with the caller's context variables, in which its load runs; None is the end.
        self._queue: SimpleQueue[tuple[Hit, Context] | None] = SimpleQueue()
        #: Hits that may be stale, with the time to go on.
        self._settling: deque[tuple[float, tuple[Hit, Context]]] = deque()
        threading.Thread(target=self._run, name="audited reads", daemon=True).start()

    def under_way(self) -> int:
        return self._queue.qsize() + len(self._settling)

    def add(self, hit: Hit) -> None:
        self._queue.put((hit, copy_context()))

    def close(self) -> None:
        """End the thread once it has gone through the queue; what settles is undecided."""
        self._queue.put(None)

    def _run(self) -> None:
        while self._has_gone_on(self._next()):
            pass
        for _, (hit, _context) in self._settling:
            self._account.count(hit.key, AuditOutcome.UNDECIDED)
        self._nodes.close()

    def _next(self) -> tuple[Hit, Context] | None:
        """Wait for the next hit: one that has settled, or else a new one."""
        seconds = self._settling[0][0] - time.monotonic() if self._settling else None
        try:
            if seconds is None or seconds > 0:
                return self._queue.get(timeout=seconds)
        except Empty:
            pass
        return self._settling.popleft()[1]

    def _has_gone_on(self, entry: tuple[Hit, Context] | None) -> bool:
        """Take the steps of a comparison up to its end, or until it settles. Return False at the end of the queue."""
        if entry is None:
            return False
        hit, context = entry
        try:
            command = next(hit.steps)
            while not isinstance(command, Wait):
                command = hit.steps.send(self._answer(command, hit, context))
        except StopIteration as end:
            self._account.count(hit.key, end.value)
        except BaseException as error:  # noqa: BLE001  the application's load may raise anything; the thread goes on
            self._account.failed(hit.key, error)
        else:
            self._settling.append((time.monotonic() + command.seconds, entry))
        return True

    def _answer(self, command: Any, hit: Hit, context: Context) -> Any:
        if isinstance(command, Load):
            return as_loaded(context.run(hit.read))
        return self._nodes.answer([command])[0]
