"""The latency of an eviction: the time that a key lives on after its event was published.

    publish (the clock is read, the frames are written) ─> … ─> a node looks the key up to delete it (and notes when)

Rules of this file:

1. One definition applies to all contestants. A latency begins just before the publisher's write, unconfirmed, to the
   fanout exchange. It ends when memcached finds the key to delete it, at the microsecond that it logs for `watch
   fetchers`. Nothing polls, so the measurement is not in the way. Both clocks are the system's.
2. Publishing keeps its schedule whatever happens to the events, so that a contestant that falls behind shows it.
3. Every node holds the keys beforehand. With `copies` above one, the last copy counts.
"""

import contextlib
import math
import re
import socket
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Self

from tests.benchmarks import amqp
from tests.benchmarks.contestants import Contestant
from tests.benchmarks.messages import Template
from tests.benchmarks.stage import Place, Stage, start, wait_for_consumers
from tests.servers import Memcached

#: Seconds of publishing at the same rate before the events that count.
WARM_UP_SECONDS = 0.5
#: Seconds after the last publish in which the last key must be gone. Later ones count as never evicted.
LATE = 5.0
#: Seconds that memcached may take to write its log.
NOTED_WITHIN = 2.0
#: Keys set in one write.
TOGETHER = 1000

_LINE = re.compile(rb"ts=(\d+)\.(\d+) \S+ type=item_get key=product(?:%3A|:)(\d{12}) status=found")


@dataclass(frozen=True)
class Latency:
    """Milliseconds from publish to eviction, infinite if a key was never evicted."""

    rate: int
    events: int
    p50: float
    p99: float
    p999: float
    worst: float
    #: Number of keys that were still there at the end.
    left: int


def latency(stage: Stage, contestant: Contestant, *, rate: int, seconds: float) -> Latency:
    """Measure once. Raise StalledError if the consumers stall."""
    with stage.place() as place, contextlib.ExitStack() as stack:
        contestant.declare(place)
        warm_up, events = int(rate * WARM_UP_SECONDS), int(rate * seconds)
        for node in stage.memcached:
            store(node, warm_up + events)
        start(stack, contestant.company(place), place, "company")
        commands = [contestant.command(place, number) for number in range(contestant.workers)]
        processes = start(stack, commands, place, "consumer")
        wait_for_consumers(place, contestant.queue, contestant.workers, processes)
        with Watch(stage.memcached) as watch:
            hits = stage.hits()
            template = contestant.template()
            _publish(place, template, warm_up, rate=rate, first=0)
            sent = _publish(place, template, events, rate=rate, first=warm_up)
            _wait(stage, hits + (warm_up + events) * contestant.copies)
            gone = watch.gone((warm_up + events) * contestant.copies, copies=contestant.copies)
        return _summed_up(rate, [(gone.get(number, math.inf) - at) * 1000 for number, at in sent.items()])


class Watch:
    """A listener to the nodes' logs of deletes. It reads them all the time, and parses them afterwards."""

    def __init__(self, nodes: list[Memcached]) -> None:
        self._sockets = [socket.create_connection(("127.0.0.1", node.port)) for node in nodes]
        self._chunks: list[list[bytes]] = [[] for _ in nodes]
        self._threads = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in zip(self._sockets, self._chunks, strict=True)
        ]

    def __enter__(self) -> Self:
        for connection, thread in zip(self._sockets, self._threads, strict=True):
            connection.sendall(b"watch fetchers\r\n")
            assert connection.recv(4) == b"OK\r\n"
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for connection, thread in zip(self._sockets, self._threads, strict=True):
            connection.shutdown(socket.SHUT_RDWR)
            thread.join()
            connection.close()

    def gone(self, expected: int, *, copies: int) -> dict[int, float]:
        """Return event number -> time at which the last of its copies was evicted, in seconds of the system's clock."""
        deadline = time.monotonic() + NOTED_WITHIN
        while (seen := self._seen()) and sum(map(len, seen.values())) < expected and time.monotonic() < deadline:
            time.sleep(0.1)
        return {number: max(times) for number, times in seen.items() if len(times) >= copies}

    def _seen(self) -> dict[int, list[float]]:
        seen: dict[int, list[float]] = defaultdict(list)
        for chunks in self._chunks:
            for second, microsecond, number in _LINE.findall(b"".join(chunks)):
                seen[int(number)].append(int(second) + int(microsecond) / 1e6)
        return seen

    @staticmethod
    def _read(connection: socket.socket, chunks: list[bytes]) -> None:
        while data := connection.recv(1 << 20):
            chunks.append(data)


def store(node: Memcached, keys: int) -> None:
    """Fill a node with the products that will change."""
    with socket.create_connection(("127.0.0.1", node.port)) as connection:
        for first in range(0, keys, TOGETHER):
            some = range(first, min(first + TOGETHER, keys))
            connection.sendall(b"".join(b"set product:%012d 0 0 5 noreply\r\nstale\r\n" % number for number in some))
        connection.sendall(b"version\r\n")
        assert connection.recv(100).startswith(b"VERSION")


def _publish(place: Place, template: Template, events: int, *, rate: int, first: int) -> dict[int, float]:
    """Publish on schedule; return the time at which each event was written, in seconds of the system's clock."""
    sent = {}
    with contextlib.closing(amqp.Connection(place.url)) as connection:
        began = time.monotonic()
        for count, message in enumerate(template.numbered(events, start=first)):
            if (early := began + count / rate - time.monotonic()) > 0:
                time.sleep(early)
            sent[first + count] = time.time()
            connection.socket.sendall(message)
        connection.be_read()
    return sent


def _wait(stage: Stage, hits: int) -> None:
    deadline = time.monotonic() + LATE
    while stage.hits() < hits and time.monotonic() < deadline:
        time.sleep(0.05)


def _summed_up(rate: int, milliseconds: list[float]) -> Latency:
    ordered = sorted(milliseconds)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]

    left = Counter(map(math.isinf, ordered))[True]
    return Latency(rate, len(ordered), at(0.5), at(0.99), at(0.999), ordered[-1], left)
