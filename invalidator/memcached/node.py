"""One memcached node: sends chunks over one connection, and knows when to stop waiting for it.

    evict ──> waiting ──> connection (at most `chunks_in_flight` outstanding) ──> confirmed
                 ^                      │ broken
                 └── once, on a fresh ──┤ connection
                                        └── broken again, no connection, deadline ──> all unreachable, breaker open

Rules of this file:

1. Only the connection confirms. Everything else that can happen ends in a repeat of the whole chunk, or `Unreachable`.
2. The deadline belongs to the node: this many seconds with chunks to confirm and none confirmed, no matter if they wait
   for a connection, for room in the window or for the answer. Half an answer, or a repeat, does not extend it.
3. At the deadline everything fails together: a hung node costs the evictions that wait for it one deadline. The breaker
   is open then, so later evictions fail at once.
4. No key is ever moved to another node.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

from invalidator.errors import RefusedError
from invalidator.memcached.access import Access
from invalidator.memcached.breaker import Backoff, Breaker, State
from invalidator.memcached.connection import Connection, Sending
from invalidator.memcached.dial import dial
from invalidator.memcached.eviction import Answer, Evicted, Eviction
from invalidator.memcached.failure import DialError, Failure
from invalidator.memcached.host import is_name
from invalidator.memcached.lookup import until_it_moves
from invalidator.memcached.wire import Chunk, bare_fence
from invalidator.runtime.logs import Log
from invalidator.settings import Address

#: Connections that a chunk is written to before its node counts as unreachable.
TRIES = 2
#: The reason of what fails because `close` was called.
STOPPING = "this worker is stopping"

log = Log(__name__)

#: Called with label and state when a node becomes unreachable, and when it answers again, so that its debts can be
#: drained at once.
OnChange = Callable[[str, State], None]


class Node:
    """One node, its connection opened on demand. It listens at ``address``, and is named ``label``."""

    def __init__(
        self,
        label: str,
        address: Address,
        *,
        access: Callable[[], Access] = Access,
        deadline: float = 1.0,
        chunks_in_flight: int = 4,
        backoff: Backoff | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_change: OnChange | None = None,
    ) -> None:
        self.label = label
        self.address = address
        #: Called for every connection, so that a changed password is read again.
        self._access = access
        self._deadline = deadline
        self._chunks_in_flight = chunks_in_flight
        self._breaker = Breaker(backoff or Backoff())
        self._sleep = sleep
        self._on_change = on_change
        self._waiting: deque[Sending] = deque()
        self._connection: Connection | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        #: When the deadline began: at the last confirmation, or when the first chunk came after an idle time.
        self._waiting_since = 0.0
        self._closed = False

    @property
    def state(self) -> State:
        return self._breaker.state

    @property
    def peer(self) -> str | None:
        """The IP address that it is connected to; None without a connection, or on a UNIX socket."""
        return self._connection.peer if self._connection else None

    async def evict(self, chunks: Sequence[Chunk]) -> Answer:
        """Delete the chunks' keys on this node. A failure of the node is an answer, never an exception."""
        return await self.submit(chunks)

    def submit(self, chunks: Sequence[Chunk]) -> "asyncio.Future[Answer]":
        """Write what fits at once and return the answer's future, for callers that wait for several nodes."""
        eviction = Eviction(chunks, asyncio.get_running_loop().create_future())
        state = self._breaker.state
        if self._closed:
            eviction.fail(Failure.BROKEN, STOPPING, waited=False)
        elif state.failure:
            eviction.fail(state.failure, state.reason, waited=False)
        elif not chunks:
            eviction.future.set_result(Evicted(0))
        else:
            self._enqueue(eviction, chunks)
        return eviction.future

    async def close(self) -> None:
        """Close the connection; what is not confirmed by now is unreachable."""
        self._closed = True
        tasks = [task for task in (self._probing, self._dialling, self._following) if task]
        self._fail_all(Failure.BROKEN, STOPPING)
        for task in (self._probing, self._following):
            if task:
                task.cancel()
        if self._timer:
            self._timer.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # The transport closes its socket in the loop's next turn.
        await asyncio.sleep(0)

    # Sending

    def _enqueue(self, eviction: Eviction, chunks: Sequence[Chunk]) -> None:
        if not self._is_waiting():
            self._start_deadline()
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
            await dial(self.address, self._access(), connection)
        except asyncio.CancelledError:
            connection.abort("given up while it was opened")
            raise
        except (DialError, RefusedError) as error:
            self._dialling = None
            failure = error.failure if isinstance(error, DialError) else Failure.LOGIN_REFUSED
            self._fail_all(failure, f"cannot connect: {error}")
        else:
            self._dialling = None
            self._adopt(connection)

    def _adopt(self, connection: Connection) -> None:
        self._connection = connection
        if is_name(self.address):
            if self._following:
                self._following.cancel()
            self._following = asyncio.get_running_loop().create_task(self._follow(connection))
        self._pump()
        if connection.ended:
            # The node refused with a line of text and closed before this: that counts as a try like any other.
            self.broken(connection, connection.failure, connection.ended)

    async def _follow(self, connection: Connection) -> None:
        """End the connection when the node's name moves to another machine; the next one is to that machine."""
        if connection.peer:
            reason = await until_it_moves(self.address, connection.peer)
            if not connection.ended:
                log.warning("the node's name has moved; connecting anew", node=self.label, reason=reason)
                connection.abort(reason)

    # Answers

    def confirmed(self, sending: Sending) -> None:
        self._waiting_since = asyncio.get_running_loop().time()
        sending.eviction.confirm()
        if self._waiting:
            self._pump()

    def broken(self, connection: Connection, failure: Failure, reason: str) -> None:
        if connection is not self._connection:
            return
        if any(sending.tries >= TRIES for sending in connection.outstanding):
            self._fail_all(failure, reason)
        else:
            self._connection = None
            self._send_again(connection.outstanding)

    def _send_again(self, sendings: Iterable[Sending]) -> None:
        """Queue these chunks again, whole, before all others, each with a number that no answer is on its way to."""
        again = [replace(sending, chunk=sending.chunk.again()) for sending in sendings]
        self._waiting.extendleft(reversed(again))
        self._pump()

    # The deadline

    def _is_waiting(self) -> bool:
        return bool(self._waiting or (self._connection and self._connection.outstanding))

    def _start_deadline(self) -> None:
        loop = asyncio.get_running_loop()
        self._waiting_since = loop.time()
        # One timer, checked when it fires: moving it at each confirmation would cost more than the confirmation.
        if self._timer is None:
            self._timer = loop.call_at(self._waiting_since + self._deadline, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer = None
        if not self._is_waiting():
            return
        loop = asyncio.get_running_loop()
        due = self._waiting_since + self._deadline
        if loop.time() < due:
            self._timer = loop.call_at(due, self._check_deadline)
        else:
            self._fail_all(Failure.DEADLINE, f"no confirmation for {self._deadline:g} s")

    # The breaker

    def _fail_all(self, failure: Failure, reason: str) -> None:
        """End the connection, fail every eviction that waits for it, and start to probe."""
        connection, self._connection = self._connection, None
        sendings = [*(connection.outstanding if connection else ()), *self._waiting]
        self._waiting.clear()
        if connection:
            connection.abort(reason)
        if self._dialling:
            self._dialling.cancel()
            self._dialling = None
        evictions = dict.fromkeys(sending.eviction for sending in sendings)
        if not self.state.is_open and not self._closed:
            self._open(failure, reason, waited=len(evictions))
        for eviction in evictions:
            eviction.fail(failure, reason, waited=True)

    def _open(self, failure: Failure, reason: str, *, waited: int) -> None:
        loop = asyncio.get_running_loop()
        self._breaker.open(failure, reason, now=loop.time(), waited=waited)
        self._probing = loop.create_task(self._probe())
        if self._on_change:
            loop.call_soon(self._on_change, self.label, self.state)

    async def _probe(self) -> None:
        """Send bare fences, each on a fresh connection, until one is answered; that connection stays."""
        loop = asyncio.get_running_loop()
        is_answered = False
        while not is_answered:
            await self._sleep(self._breaker.next_delay(now=loop.time()))
            probe = [bare_fence()]
            eviction = Eviction(probe, loop.create_future())
            self._enqueue(eviction, probe)
            is_answered = isinstance(await eviction.future, Evicted)
        self._breaker.close()
        if self._on_change:
            loop.call_soon(self._on_change, self.label, self.state)
