"""The log that the server keeps for a follower's slot, while others write to tables that nobody follows."""

import time
from contextlib import closing
from dataclasses import dataclass

import psycopg

from tests.benchmarks.followed.place import Place, Servers, wait

#: Bytes of log of one transaction, nearly: rows of two kilobytes, which are not compressed.
TRANSACTION = 1_000_000
_WRITE = "INSERT INTO unrelated SELECT repeat('x', 1900) FROM generate_series(1, 500)"
#: Seconds before the samples that count.
WARM_UP = 5.0
SAMPLE_SECONDS = 0.25
MEGABYTE = 1_000_000
_SIZES = """
    SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint,
           pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint
    FROM pg_replication_slots WHERE slot_name = %s
"""


@dataclass(frozen=True)
class Retained:
    """Megabytes of log, at their most."""

    #: Written a second.
    written: float
    #: Written and not yet confirmed by the follower.
    unconfirmed: float
    #: Kept by the server, which needs more than that to decode what is to come.
    kept: float


def retained(servers: Servers, *, rate: float, seconds: float) -> Retained:
    """Write `rate` megabytes of log a second, as far as the machine can."""
    with servers.place("products") as place:
        follower = place.start("follow")
        wait(lambda: place.slot("active") == "t", follower)
        place.sql("CREATE TABLE unrelated (filler text)")
        return _written(place, rate, seconds)


def _written(place: Place, rate: float, seconds: float) -> Retained:
    with closing(psycopg.connect(place.url, autocommit=True)) as connection:
        connection.execute("SET synchronous_commit = off")
        first, began, sampled, count = _end(connection), time.monotonic(), 0.0, 0
        unconfirmed, kept = [0], [0]
        while (elapsed := time.monotonic() - began) < WARM_UP + seconds:
            connection.execute(_WRITE)
            count += 1
            if elapsed - sampled > SAMPLE_SECONDS:
                sampled = elapsed
                sizes = connection.execute(_SIZES, [place.name]).fetchone()
                assert sizes
                if elapsed > WARM_UP:
                    unconfirmed.append(sizes[0])
                    kept.append(sizes[1])
            time.sleep(max(0.0, count * TRANSACTION / MEGABYTE / rate - elapsed))
        written = (_end(connection) - first) / (time.monotonic() - began)
    return Retained(written / MEGABYTE, max(unconfirmed) / MEGABYTE, max(kept) / MEGABYTE)


def _end(connection: "psycopg.Connection") -> int:
    ((position,),) = connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint").fetchall()
    return int(position)
