"""The log that the server keeps for a follower's slot, while others write to tables that nobody follows.

Beside it runs `pg_recvlogical`, PostgreSQL's own reader, with a slot of its own: for it the server keeps the least.
"""

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass

import psycopg

from tests.benchmarks.followed.place import Place, Servers, wait
from tests.benchmarks.stage import Command, Process

#: Rows of two kilobytes, which are not compressed: a megabyte of log.
_WRITE = "INSERT INTO unrelated SELECT repeat('x', 1900) FROM generate_series(1, 500)"
MEGABYTE = 1_000_000
#: Seconds before the samples that count: the server notes only every 15 s from where on a slot needs its log.
WARM_UP = 20.0
SAMPLE_SECONDS = 0.25
_SIZES = """
    SELECT slot_name, pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::float,
           pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::float
    FROM pg_replication_slots
"""


@dataclass(frozen=True)
class Retained:
    """Megabytes of log, at their most."""

    #: Written a second.
    written: float
    #: Written and not yet confirmed by the follower.
    unconfirmed: float
    #: Kept by the server for the follower, and for pg_recvlogical.
    kept: float
    kept_for_peer: float


def retained(servers: Servers, *, rate: float, seconds: float) -> Retained:
    """Write `rate` megabytes of log a second, as far as the machine can."""
    with servers.place("products") as place, ExitStack() as stack:
        follower = place.start("follow")
        peer = Process(_peer(place), log=place.folder / "peer.log")
        stack.callback(peer.kill)
        wait(lambda: place.sql("SELECT count(active_pid) FROM pg_replication_slots") == "2", follower, peer)
        place.sql("CREATE TABLE unrelated (filler text)")
        with closing(psycopg.connect(place.url, autocommit=True)) as connection:
            return _measured(connection, place.name, rate, seconds)


def _peer(place: Place) -> Command:
    place.sql("SELECT pg_create_logical_replication_slot('peer', 'pgoutput')")
    options = ["proto_version=1", f"publication_names={place.settings.follow.publication}"]
    command = ["pg_recvlogical", "--dbname", place.url, "--slot", "peer", "--start", "--file", "/dev/null"]
    return Command([*command, "--status-interval=1", *(f"--option={option}" for option in options)], {})


def _measured(connection: "psycopg.Connection", slot: str, rate: float, seconds: float) -> Retained:
    connection.execute("SET synchronous_commit = off")
    unconfirmed, kept, kept_for_peer = [0.0], [0.0], [0.0]
    first, began, sampled, count = _end(connection), time.monotonic(), WARM_UP, 0
    while (elapsed := time.monotonic() - began) < WARM_UP + seconds:
        connection.execute(_WRITE)
        count += 1
        if elapsed - sampled > SAMPLE_SECONDS:
            sampled = elapsed
            sizes = {name: (behind, all) for name, behind, all in connection.execute(_SIZES).fetchall()}
            unconfirmed.append(sizes[slot][0])
            kept.append(sizes[slot][1])
            kept_for_peer.append(sizes["peer"][1])
        time.sleep(max(0.0, count / rate - elapsed))
    written = (_end(connection) - first) / (time.monotonic() - began)
    return Retained(*(size / MEGABYTE for size in (written, max(unconfirmed), max(kept), max(kept_for_peer))))


def _end(connection: "psycopg.Connection") -> float:
    ((position,),) = connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float").fetchall()
    return float(position)
