"""Tests of deadlines without a clock: time passes only when every task waits, and then all at once.

    @in_virtual_time
    async def test_…():

It is for peers in the same event loop. What another process or thread does takes no time here, and would come too late.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

#: Real seconds without any event after which every task waits for the clock: the kernel delivers to ourselves at once.
STILL = 0.01

P = ParamSpec("P")


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in an event loop of its own whose clock jumps from deadline to deadline."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=_Loop) as runner:
            runner.run(test(*args, **kwargs))

    return run


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._events = _Events()
        super().__init__(self._events)

    def time(self) -> float:
        return self._events.now


class _Events(selectors.DefaultSelector):
    """Waits for events but never for a time: that passes at once."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(STILL)
        if not ready:
            self.now += timeout
        return ready
