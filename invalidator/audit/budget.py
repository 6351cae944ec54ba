"""A limit on how often something is done: a bucket that fills at a steady rate. It never waits. Pure."""

import time
from collections.abc import Callable

#: Seconds of the rate that may be used at once after a quiet time.
BURST_SECONDS = 2.0


class Budget:
    """At most `rate` units a second on average."""

    def __init__(self, rate: float, *, least: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Allow `rate` units a second, and `least` at once, however small the rate."""
        self._rate = rate
        self._most = max(rate * BURST_SECONDS, least)
        self._clock = clock
        self._units, self._at = self._most, clock()

    def claim(self, units: float = 1.0, *, leaving: float = 0.0) -> bool:
        """Take these units and return True, or take nothing if fewer than `leaving` would be left."""
        now = self._clock()
        self._units = min(self._most, self._units + (now - self._at) * self._rate)
        self._at = now
        if units + leaving > self._units:
            return False
        self._units -= units
        return True
