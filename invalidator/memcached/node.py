"""One memcached node: sends chunks down one connection, and knows when to stop hoping.

    evict ──> waiting ──> connection (at most `chunks_in_flight` outstanding) ──> confirmed
                 ^                      │ broken
                 └── once, on a fresh ──┤ connection
                                        └── broken again, no connection, deadline ──> all unreachable, breaker open

Rules of this file:

1. Only the connection confirms. Everything else that can happen ends in a repeat of the whole chunk, or `Unreachable`.
2. The deadline is one for the node: so many seconds with something to confirm and nothing confirmed, whether it waits
   for a connection, for room in the window or for the answer. Half an answer, or a repeat, does not extend it.
3. When it is over, everything fails together: a hung node costs the evictions that wait for it one deadline, and,
   as the breaker is open then, later ones nothing.
4. Nothing is moved to another node, ever.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal

from invalidator.errors import RefusedError, UnreachableError
from invalidator.memcached.access import Access, dial
from invalidator.memcached.breaker import Backoff, Breaker, State
from invalidator.memcached.connection import Connection, Sending
from invalidator.memcached.eviction import Answer, Evicted, Eviction
from invalidator.memcached.wire import Chunk, bare_fence

#: Connections that a chunk is written to before its node counts as unreachable.
TRIES = 2

#: Told, by label, when a node becomes unreachable ("open", why) and when it answers again ("closed", ""), so that what
#: it is owed can be evicted now.
OnChange = Callable[[str, Literal["open", "closed"], str], None]


class Node:
    """One node, its connection opened on demand. ``address`` is where it listens; ``label`` is what it is called."""

    def __init__(
        self,
        label: str,
        address: tuple[str, int],
        *,
        access: Access | None = None,
        deadline: float = 1.0,
        chunks_in_flight: int = 4,
        backoff: Backoff | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_change: OnChange | None = None,
    ) -> None:
        self.label = label
        self.address = address
        self._access = access or Access()
        self._deadline = deadline
        self._chunks_in_flight = chunks_in_flight
        self._breaker = Breaker(backoff or Backoff())
        self._sleep = sleep
        self._on_change = on_change
        self._waiting: deque[Sending] = deque()
        self._connection: Connection | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        #: When the deadline began: at the last confirmation, or when there was something to confirm again.
        self._hoping_since = 0.0
        self._closed = False

    @property
    def state(self) -> State:
        return self._breaker.state

    async def evict(self, chunks: Sequence[Chunk]) -> Answer:
        """Delete the chunks' keys on this node; never raises for anything that the node does."""
        return await self.submit(chunks)

    def submit(self, chunks: Sequence[Chunk]) -> "asyncio.Future[Answer]":
        """As `evict`, for callers that have several nodes to wait for: what can be written is written at once."""
        eviction = Eviction(chunks, asyncio.get_running_loop().create_future())
        if self._closed:
            eviction.fail("this worker is stopping", waited=False)
        elif self._breaker.is_open:
            eviction.fail(self._breaker.state.reason, waited=False)
        elif not chunks:
            eviction.future.set_result(Evicted(0))
        else:
            self._enqueue(eviction, chunks)
        return eviction.future

    async def close(self) -> None:
        """Let go of the node; whatever is not confirmed by now is unreachable."""
        self._closed = True
        tasks = [task for task in (self._probing, self._dialling) if task]
        self._fail_all("this worker is stopping")
        if self._probing:
            self._probing.cancel()
        if self._timer:
            self._timer.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # The transport closes its socket in the loop's next round.
        await asyncio.sleep(0)

    # What goes out

    def _enqueue(self, eviction: Eviction, chunks: Sequence[Chunk]) -> None:
        if not self._is_hoping():
            self._hope()
        self._waiting.extend(Sending(chunk, eviction) for chunk in chunks)
        self._pump()

    def _pump(self) -> None:
        """Write as many waiting chunks as the window has room for."""
        connection = self._connection
        if connection is None:
            if self._waiting and not self._dialling:
                self._dialling = asyncio.get_running_loop().create_task(self._dial())
            return
        while self._waiting and len(connection.outstanding) < self._chunks_in_flight:
            sending = self._waiting.popleft()
            sending.tries += 1
            connection.send(sending)

    async def _dial(self) -> None:
        connection = Connection(self)
        try:
            await dial(self.address, self._access, connection)
        except asyncio.CancelledError:
            connection.abort("given up while it was opened")
            raise
        except (UnreachableError, RefusedError) as error:
            self._dialling = None
            self._fail_all(f"cannot connect: {error}")
        else:
            self._dialling = None
            self._adopt(connection)

    def _adopt(self, connection: Connection) -> None:
        self._connection = connection
        self._pump()
        if connection.ended:
            # Refused with a line of text and closed before it was ours: that counts as a try like any other.
            self.broken(connection, connection.ended)

    # What comes back

    def confirmed(self, sending: Sending) -> None:
        self._hoping_since = asyncio.get_running_loop().time()
        sending.eviction.confirm()
        if self._waiting:
            self._pump()

    def broken(self, connection: Connection, reason: str) -> None:
        if connection is not self._connection:
            return
        if any(sending.tries >= TRIES for sending in connection.outstanding):
            self._fail_all(reason)
        else:
            self._connection = None
            self._send_again(connection.outstanding)

    def _send_again(self, sendings: Iterable[Sending]) -> None:
        """All of each chunk, before whatever waits, under a number that no answer is on its way to."""
        again = [replace(sending, chunk=sending.chunk.again()) for sending in sendings]
        self._waiting.extendleft(reversed(again))
        self._pump()

    # The deadline

    def _is_hoping(self) -> bool:
        return bool(self._waiting or (self._connection and self._connection.outstanding))

    def _hope(self) -> None:
        loop = asyncio.get_running_loop()
        self._hoping_since = loop.time()
        # One timer, looked at when it fires: moving it at each confirmation would cost more than the confirmation.
        if self._timer is None:
            self._timer = loop.call_at(self._hoping_since + self._deadline, self._look_at_deadline)

    def _look_at_deadline(self) -> None:
        self._timer = None
        if not self._is_hoping():
            return
        loop = asyncio.get_running_loop()
        due = self._hoping_since + self._deadline
        if loop.time() < due:
            self._timer = loop.call_at(due, self._look_at_deadline)
        else:
            self._fail_all(f"no confirmation for {self._deadline:g} s")

    # The breaker

    def _fail_all(self, reason: str) -> None:
        """End the connection, fail everything that hoped for it, and probe from now on."""
        connection, self._connection = self._connection, None
        sendings = [*(connection.outstanding if connection else ()), *self._waiting]
        self._waiting.clear()
        if connection:
            connection.abort(reason)
        if self._dialling:
            self._dialling.cancel()
            self._dialling = None
        evictions = dict.fromkeys(sending.eviction for sending in sendings)
        if not self._breaker.is_open and not self._closed:
            self._open(reason, waited=len(evictions))
        for eviction in evictions:
            eviction.fail(reason, waited=True)

    def _open(self, reason: str, *, waited: int) -> None:
        loop = asyncio.get_running_loop()
        self._breaker.open(reason=reason, now=loop.time(), waited=waited)
        self._probing = loop.create_task(self._probe())
        if self._on_change:
            loop.call_soon(self._on_change, self.label, "open", reason)

    async def _probe(self) -> None:
        """Ask for a bare fence on a fresh connection until it is answered; that connection stays."""
        loop = asyncio.get_running_loop()
        answered = False
        while not answered:
            await self._sleep(self._breaker.next_delay(now=loop.time()))
            probe = [bare_fence()]
            eviction = Eviction(probe, loop.create_future())
            self._enqueue(eviction, probe)
            answered = isinstance(await eviction.future, Evicted)
        self._breaker.close()
        self._probing = None
        if self._on_change:
            loop.call_soon(self._on_change, self.label, "closed", "")
