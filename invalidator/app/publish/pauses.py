"""The statement about what a publisher published last, once it pauses.

While events are published, each is an occasion to state what is confirmed (`invalidator.broker.publish.statements`).
After the last one nothing happens in the caller's threads any more. So a thread waits for the pause, and then ends.
"""

import threading
import time
from collections.abc import Callable

from invalidator.broker.publish.numbers import STATEMENT_SECONDS, Numbers


class Pauses:
    """Calls ``state`` when the publisher has paused; there is a thread only until everything is stated."""

    def __init__(self, numbers: Numbers, state: Callable[[], bool]) -> None:
        """``state`` returns False if nothing can be stated now: the next publish tries again."""
        self._numbers = numbers
        self._state = state
        self._is_waiting = False

    def published(self) -> None:
        """Begin to wait for a pause, unless a thread waits, or there is nothing to state."""
        if not (self._is_waiting or self._numbers.are_stated):
            self._is_waiting = True
            # A daemon, so that the application ends without it. Where threads do not run, close() states the rest.
            threading.Thread(target=self._wait, name="invalidator statements", daemon=True).start()

    def _wait(self) -> None:
        can_state = True
        while can_state and not self._numbers.are_stated:
            time.sleep(STATEMENT_SECONDS)
            if self._numbers.are_paused():
                can_state = self._state()
        self._is_waiting = False
