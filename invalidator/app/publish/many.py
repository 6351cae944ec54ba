"""Many events on their way, by their positions: sent in order, tried again once, and accounted for exactly.

    events ─> sent, many in flight ─> confirmed
                │ a failure
                └─> from the first unconfirmed event on everything is sent again, so that the order is kept

Pure: both publishers drive it.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from invalidator.app.publish.message import Message, message
from invalidator.errors import IncompleteError, InvalidatorError, PoisonError, UnconfirmedError
from invalidator.events.event import Event


class Many:
    """Iterate over it for the messages to send, each with its position."""

    def __init__(self, events: Iterable[Event], *, app_id: str) -> None:
        self._events = iter(events)
        self._app_id = app_id
        self._again: deque[tuple[int, Message]] = deque()
        #: Positions that were confirmed behind an unconfirmed one, and are sent again for the sake of the order.
        self._confirmed: set[int] = set()
        #: The first position that was not sent.
        self._next = 0
        self._poison: PoisonError | None = None
        self._has_failed = False

    def __iter__(self) -> Iterator[tuple[int, Message]]:
        while self._again:
            yield self._again.popleft()
        for event in self._events:
            position, self._next = self._next, self._next + 1
            try:
                made = message(event.type, event.fields, app_id=self._app_id)
            except PoisonError as error:
                self._poison = error
                return
            yield position, made

    def sent(self) -> int:
        """Return the number of events, once everything that was sent is confirmed.

        Raises:
            IncompleteError: no worker could read the next event.
        """
        if self._poison:
            raise self._incomplete(self._poison, [self._next - 1])
        return self._next

    def failed(self, error: InvalidatorError, left: Sequence[tuple[tuple[int, Message], bool]]) -> None:
        """Prepare to send again from the first unconfirmed event on, or raise.

        ``left`` is what was sent and is not confirmed together with everything before it, with True for the confirmed.

        Raises:
            IncompleteError: it failed before without progress, or nothing can change by trying again.
        """
        waiting = [sent for sent, _ in left] + list(self._again)
        self._confirmed.update(position for (position, _), is_confirmed in left if is_confirmed)
        self._confirmed.intersection_update(position for position, _ in waiting)
        if self._has_failed or not isinstance(error, UnconfirmedError):
            raise self._incomplete(error, [position for position, _ in waiting])
        self._has_failed, self._again = True, deque(waiting)

    def progressed(self) -> None:
        """Allow another repetition, because the first unconfirmed event is a later one than before."""
        self._has_failed = False

    def _incomplete(self, error: InvalidatorError, waiting: Iterable[int]) -> IncompleteError:
        unconfirmed = tuple(position for position in waiting if position not in self._confirmed)
        return IncompleteError(error, unconfirmed=unconfirmed, unsent=self._next)
