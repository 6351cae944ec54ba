"""The tally of one log: which numbers of each publisher were read, and which of those that it states are missing. Pure.

    event (epoch, number) ─> seen ─┐
    statement (epoch, 1 to 42) ────┴─> those of 1 to 42 that were neither seen nor void: missing

Rules of this file:

1. A number is missing only if its publisher states that it is confirmed: the broker stored the event before the
   statement, so in the log it would stand before it. Nothing here waits, and no clock decides.
2. A publisher that dies states nothing more. What is then unknown is not missing: perhaps no caller knew it as safe.
3. Statements may overlap, and one may be lost. Each is judged from where the last one of that publisher ended.
4. A reader that begins knows nothing of before. So it reads a minute without judging. A statement that reaches
   further back, and follows none that was read, is judged from the first number that was seen. For a reader that
   follows no other one, also a statement that reaches back behind its mark: perhaps there was no log yet.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import inf

from invalidator.broker.event_log import of_ours
from invalidator.broker.messages import STATEMENT, read_statement
from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.number import number_of
from invalidator.broker.wire.properties import string_of
from invalidator.broker.wire.timestamp import published_at
from invalidator.errors import PoisonError

#: Seconds of the log that are read before the first judgement.
READ_BEFORE = 60.0
#: Seconds that a statement may reach back to be judged as a whole, if none of its publisher was read before it.
REACHES_BACK = 30.0
#: Seconds of silence after which a publisher is forgotten.
FORGOTTEN_AFTER = 600.0
#: Publishers without numbers that are named.
NAMED = 20

Range = tuple[int, int]


@dataclass(slots=True)
class Missing:
    """The numbers of one publisher that are not in the log, although the broker confirmed them."""

    publisher: str
    ranges: list[Range]
    #: They were published between these.
    since: datetime
    until: datetime

    @property
    def count(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges)

    @property
    def numbers(self) -> str:
        """The numbers in words: "7, 12 to 42"."""
        runs = [f"{first}" if first == last else f"{first} to {last}" for first, last in self.ranges]
        return ", ".join(runs[:NAMED]) + (", …" if len(runs) > NAMED else "")

    def __str__(self) -> str:
        if self.count == 1:
            return f'1 event of "{self.publisher}" was confirmed and is not in the log: number {self.numbers}'
        return (
            f'{self.count} events of "{self.publisher}" were confirmed and are not in the log: numbers {self.numbers}'
        )


@dataclass(slots=True)
class _Seen:
    """The numbers of one publisher that no statement has named yet."""

    first: int
    last: int
    #: When it began, or stated something.
    active: float
    #: Between first and last, not seen.
    holes: list[Range] = field(default_factory=list)
    #: Below first, seen late.
    late: list[Range] = field(default_factory=list)
    #: The last number that a statement named, None before the first statement.
    stated: int | None = None

    def add(self, number: int) -> None:
        if number > self.last:
            if number > self.last + 1:
                self.holes.append((self.last + 1, number - 1))
            self.last = number
        elif number >= self.first:
            self.holes = without(self.holes, [(number, number)])
        elif number > (self.stated or 0):
            self.late.append((number, number))

    def unseen(self, first: int, last: int) -> list[Range]:
        """Return the numbers of a range that were not seen."""
        before = without([(first, self.first - 1)], self.late)
        ranges = [*before, *self.holes, (self.last + 1, last)]
        return list(within(ranges, first, last))

    def state(self, last: int) -> None:
        """Forget the numbers up to the last one of a statement."""
        self.stated = last
        self.first, self.last = max(self.first, last + 1), max(self.last, last)
        self.holes = list(within(self.holes, last + 1, self.last))
        self.late = list(within(self.late, last + 1, self.first))


class Tally:
    """Takes the log message by message, and yields what is missing."""

    def __init__(self, read: str, mark: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Judge the statements behind the message with the id ``read``, at the latest those behind the ``mark``."""
        #: The id of the message read last.
        self.read = read
        #: Events read so far.
        self.events = 0
        self._mark = mark
        self._judges = False
        #: Since when a statement can be judged as a whole.
        self._since = -inf
        self._clock = clock
        self._seen: dict[bytes, _Seen] = {}
        self._unnumbered: dict[str, None] = {}

    @property
    def unnumbered(self) -> list[str]:
        """The app_id of publishers without numbers that were met, the first twenty; "" for one without a name."""
        return list(self._unnumbered)

    def take(self, deliveries: Sequence[Delivery]) -> Iterator[Missing]:
        """Take the next messages of the log; yield what their statements show to be missing."""
        unnumbered = None
        for delivery in deliveries:
            if found := number_of(delivery.header):
                self._add(*found)
            elif ours := of_ours(delivery):
                if ours[0] == STATEMENT:
                    yield from self._state(delivery)
                self.events -= 1
            else:
                unnumbered = delivery.header
            if not self._judges:
                self._begin_behind(delivery.meaning()[2])
        self.events += len(deliveries)
        if self._judges:
            ids = (delivery.meaning()[2] for delivery in reversed(deliveries))
            self.read = next(filter(None, ids), self.read)
        if unnumbered and len(self._unnumbered) < NAMED:  # one of each batch: naming it takes as long as ten others
            self._unnumbered[string_of(unnumbered, "app_id") or ""] = None

    def forget_silent(self) -> None:
        """Forget the publishers that have stated nothing for long."""
        after = self._clock() - FORGOTTEN_AFTER
        self._seen = {epoch: seen for epoch, seen in self._seen.items() if seen.active > after}

    def _begin_behind(self, id: str | None) -> None:
        """Begin to judge, if this is the message to begin behind."""
        self._judges = bool(id) and id in (self.read, self._mark)
        if id == self._mark:
            self._since = self._clock()

    def _add(self, epoch: bytes, number: int) -> None:
        seen = self._seen.get(epoch)
        if seen is None:
            self._seen[epoch] = _Seen(number, number, self._clock())
        elif number == seen.last + 1:  # nearly always
            seen.last = number
        else:
            seen.add(number)

    def _state(self, delivery: Delivery) -> Iterator[Missing]:
        try:
            statement = read_statement(delivery.body)
        except PoisonError:
            return  # of a newer version
        epoch = statement.epoch.encode()
        seen = self._seen.setdefault(epoch, _Seen(statement.last + 1, statement.last, 0.0))
        first = statement.first
        if seen.stated is not None:
            first = seen.stated + 1
        elif statement.age > min(REACHES_BACK, self._clock() - self._since):
            first = max(first, seen.first)
        missing = without(seen.unseen(first, statement.last), statement.void)
        seen.state(statement.last)
        seen.active = self._clock()
        if missing and self._judges:
            until = published_at(delivery) or datetime.now(UTC)
            yield Missing(statement.publisher, missing, until - timedelta(seconds=statement.age), until)


def within(ranges: Iterable[Range], first: int, last: int) -> Iterator[Range]:
    """Yield the parts of ranges that are inside ``first`` to ``last``."""
    for begin, end in ranges:
        if (begin := max(begin, first)) <= (end := min(end, last)):
            yield begin, end


def without(ranges: Iterable[Range], others: Iterable[Range]) -> list[Range]:
    """Return the parts of ranges that are in none of the others."""
    for first, last in others:
        ranges = [
            part
            for begin, end in ranges
            for part in ((begin, min(end, first - 1)), (max(begin, last + 1), end))
            if part[0] <= part[1]
        ]
    return [each for each in ranges if each[0] <= each[1]]
