"""Whether a node is worth asking, and when to ask it again. Pure: time and chance come in from outside.

closed ── deadline, no connection, broken twice ──> open ── back-off ──> probe ── answered ──> closed
                                                      ^                    │
                                                      └───── no answer ────┘
"""

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Seconds between probes: exponential, with full jitter, so that a fleet of workers does not probe in step."""

    first: float = 0.1
    longest: float = 5.0
    uniform: Callable[[float, float], float] = random.uniform

    def delay(self, failures: int) -> float:
        """Seconds to wait after that many failed probes in a row."""
        # The exponent is bounded: a node may be away for weeks, and 2.0 ** 1024 raises.
        return self.uniform(0.0, min(self.longest, self.first * 2.0 ** min(failures, 32)))


@dataclass(frozen=True, kw_only=True)
class State:
    """What is known of a node. Times are the clock's of the event loop (monotonic seconds)."""

    is_open: bool = False
    #: Why the node counts as unreachable; empty while it answers.
    reason: str = ""
    #: Since when.
    since: float | None = None
    #: When it is asked next.
    next_probe_at: float | None = None
    #: Evictions that waited for the node when the breaker opened last; later ones wait for nothing.
    waited: int = 0


class Breaker:
    """One node's state, and the back-off between its probes."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._failures = 0
        self.state = State()

    @property
    def is_open(self) -> bool:
        return self.state.is_open

    def open(self, *, reason: str, now: float, waited: int) -> None:
        self._failures = 0
        self.state = State(is_open=True, reason=reason, since=now, waited=waited)

    def next_delay(self, *, now: float) -> float:
        """Seconds until the next probe; longer each time it is asked for while open."""
        delay = self._backoff.delay(self._failures)
        self._failures += 1
        self.state = State(
            is_open=True,
            reason=self.state.reason,
            since=self.state.since,
            next_probe_at=now + delay,
            waited=self.state.waited,
        )
        return delay

    def close(self) -> None:
        self.state = State(waited=self.state.waited)
