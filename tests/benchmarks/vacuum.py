"""The size of an outbox on PostgreSQL: after a long backlog, and while it is filled and emptied all the time.

Autovacuum is on, as by default, and looks at the table once a minute.
"""

import time
from contextlib import ExitStack
from dataclasses import dataclass

import sqlalchemy as sa

from tests.benchmarks.outboxes import Outboxes, Place
from tests.integration.shop import relay_process

MEGABYTE = 1e6
#: Events in one commit.
TOGETHER = 500


@dataclass(frozen=True)
class Size:
    """The table with its index, in megabytes, and the rows that vacuum has not removed yet."""

    megabytes: float
    dead: int

    @classmethod
    def of(cls, place: Place) -> "Size":
        query = sa.text(
            "SELECT pg_total_relation_size(relid), n_dead_tup FROM pg_stat_user_tables WHERE relname = :table"
        )
        with place.engine.connect() as connection:
            size, dead = connection.execute(query, {"table": place.table.name}).one()
        return cls(size / MEGABYTE, dead)


@dataclass(frozen=True)
class Backlog:
    """A backlog that was emptied: its speed, and the table's sizes full, empty, and after autovacuum."""

    events_per_second: float
    full: Size
    empty: Size
    vacuumed: Size


def backlog(outboxes: Outboxes, events: int, *, vacuum_within: float) -> Backlog:
    """Empty a backlog with one relay, and wait for autovacuum."""
    with outboxes.place("postgresql") as place, relay_process(place.settings, place.folder):
        place.fill(1000)
        place.wait_until_empty()
        place.fill(events)
        began = time.monotonic()
        full = Size.of(place)
        place.wait_until_empty()
        speed = events / (time.monotonic() - began)
        empty, until = Size.of(place), time.monotonic() + vacuum_within
        while Size.of(place).dead and time.monotonic() < until:
            time.sleep(1)
        return Backlog(speed, full, empty, Size.of(place))


def kept_busy(outboxes: Outboxes, *, rate: float, seconds: float) -> list[Size]:
    """Commit at a rate while a relay publishes; return the sizes, one a second."""
    sizes: list[Size] = []
    with outboxes.place("postgresql") as place, ExitStack() as stack:
        stack.enter_context(relay_process(place.settings, place.folder))
        began, committed = time.monotonic(), 0
        while (now := time.monotonic() - began) < seconds:
            if committed < now * rate:
                place.fill(TOGETHER)
                committed += TOGETHER
            else:
                time.sleep(0.01)
            if len(sizes) < now:
                sizes.append(Size.of(place))
        place.wait_until_empty()
    return sizes
