"""The circuit breaker of a node: open while the node is unreachable and probed. Pure: clock and chance are injected.

closed ── deadline, no connection, broken twice ──> open ── back-off ──> probe ── answered ──> closed
                                                      ^                    │
                                                      └───── no answer ────┘
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from invalidator.memcached.failure import Failure


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """The delays between probes: exponential, with full jitter, so that a fleet of workers does not probe in step."""

    first: float = 0.1
    longest: float = 5.0
    uniform: Callable[[float, float], float] = random.uniform

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after this many failed probes in a row."""
        # The exponent is bounded: a node may be away for weeks, and 2.0 ** 1024 raises.
        return self.uniform(0.0, min(self.longest, self.first * 2.0 ** min(failures, 32)))


@dataclass(frozen=True, kw_only=True)
class State:
    """The state of a node. Times are the event loop's (monotonic seconds)."""

    is_open: bool = False
    #: Why the node counts as unreachable; empty while it answers.
    reason: str = ""
    failure: Failure | None = None
    #: Since when it is unreachable.
    since: float | None = None
    #: When the next probe is sent.
    next_probe_at: float | None = None
    #: Evictions that waited for the node when the breaker last opened; later ones wait for nothing.
    waited: int = 0


class Breaker:
    """The state of one node, and the back-off between its probes."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._failures = 0
        self.state = State()

    def open(self, failure: Failure, reason: str, *, now: float, waited: int) -> None:
        self._failures = 0
        self.state = State(is_open=True, reason=reason, failure=failure, since=now, waited=waited)

    def next_delay(self, *, now: float) -> float:
        """Return the seconds until the next probe; the delay grows with each call while the breaker is open."""
        delay = self._backoff.delay(self._failures)
        self._failures += 1
        self.state = replace(self.state, next_probe_at=now + delay)
        return delay

    def close(self) -> None:
        self.state = State(waited=self.state.waited)
