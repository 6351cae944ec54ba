"""The rule by which publishers try again: once, and only while there is time."""

import time
from collections.abc import Callable

from invalidator.errors import InvalidatorError, UnconfirmedError


class Retry:
    """The deadline of a publish, and the error of its first try. A repetition does no harm."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deadline = clock() + seconds
        self._first: UnconfirmedError | None = None

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - self._clock()

    def failed(self, error: InvalidatorError) -> None:
        """Return if the publish is to be tried again, else raise.

        Raises:
            InvalidatorError: `error`; after a first try that may have gone out always an `UnconfirmedError`.
        """
        if isinstance(error, UnconfirmedError):
            if self._first or self.left <= 0:
                raise error
            self._first = error
        elif self._first:
            raise UnconfirmedError(f"{error}; the first try may have gone out") from error
        else:
            raise error
