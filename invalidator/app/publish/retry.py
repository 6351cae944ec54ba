"""The deadlines of a publish: for its confirm, within which it is tried again once, and for a receipt."""

import time
from collections.abc import Callable

from invalidator.errors import ConfigurationError, InvalidatorError, UnconfirmedError


def waiting_until(wait: float | None, cluster: str, *, now: float) -> float | None:
    """Return the time until which a receipt is waited for, or None if none is.

    Raises:
        ConfigurationError: the cluster to wait for is not known.
    """
    if wait is None:
        return None
    if not cluster:
        raise ConfigurationError('to wait for an eviction, name the cluster you read from: Publisher(…, cluster="eu")')
    return now + wait


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
