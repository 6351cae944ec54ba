"""The stage of every measurement: a private broker, three memcached nodes, and the processes that are measured."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pamqp import commands

from tests.benchmarks import amqp
from tests.benchmarks.messages import EXCHANGE, Template
from tests.servers import Broker, Memcached

ROOT = Path(__file__).parents[2]
NODES = 3
#: Memory for all keys of a measurement, and KiB of lines that may wait for `Watch`.
NODE_ARGUMENTS = ("-m", "512", "-o", "worker_logbuf_size=8192,watcher_logbuf_size=8192")
_DELETES = re.compile(rb"STAT delete_misses (\d+)\r\nSTAT delete_hits (\d+)\r\n")
#: Seconds that published events may take to reach the queue.
STORED_WITHIN = 120.0
#: Seconds of rest for a filled queue.
SETTLING = 0.5


class StalledError(Exception):
    """Raised when a measured consumer ends or makes no progress. Its text is the consumer's output."""


@dataclass(frozen=True)
class Place:
    """The place of one measurement: a vhost of its own, the nodes, a folder."""

    url: str
    nodes: tuple[str, ...]
    folder: Path


@dataclass(frozen=True)
class Command:
    """A process to start."""

    arguments: Sequence[str]
    environment: Mapping[str, str]


class Stage:
    """The servers of a `dev bench`."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._vhosts = 0

    def __enter__(self) -> Self:
        self.broker = self._stack.enter_context(Broker())
        self.memcached = [self._stack.enter_context(Memcached(*NODE_ARGUMENTS)) for _ in range(NODES)]
        self.counters = [Counter(node) for node in self.memcached]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def place(self) -> Iterator[Place]:
        """Yield a vhost with nothing but the exchange, empty nodes, and an empty folder."""
        self._vhosts += 1
        vhost = f"bench-{self._vhosts}"
        with tempfile.TemporaryDirectory(prefix="invalidator-") as folder:
            url = self.broker.add_vhost(vhost)
            for node in self.memcached:
                node.flush()
            with contextlib.closing(amqp.Connection(url)) as connection:
                connection.call(
                    commands.Exchange.Declare(exchange=EXCHANGE, exchange_type="fanout", durable=True),
                    commands.Exchange.DeclareOk,
                )
            yield Place(url, tuple(node.address for node in self.memcached), Path(folder))
        self.broker.delete_vhost(vhost)

    def deletes(self) -> int:
        """Return the number of deletes that the nodes have served. Each fence counts as one, too."""
        return sum(map(sum, (counter.deletes() for counter in self.counters)))

    def hits(self) -> int:
        """Return the number of deletes that found their key."""
        return sum(counter.deletes()[1] for counter in self.counters)

    def server_cpu(self) -> float:
        """Return the CPU seconds that broker and nodes have used."""
        servers = [self.broker, *self.memcached]
        return sum(cpu_seconds(server.process.pid) for server in servers if server.process)


class Counter:
    """A node's count of deletes, read over a connection that stays open."""

    def __init__(self, node: Memcached) -> None:
        self._socket = socket.create_connection(("127.0.0.1", node.port))

    def deletes(self) -> tuple[int, int]:
        """Return (misses, hits) since the node's start."""
        self._socket.sendall(b"stats\r\n")
        answer = b""
        while not answer.endswith(b"END\r\n"):
            answer += self._socket.recv(65536)
        found = _DELETES.search(answer)
        assert found
        return int(found[1]), int(found[2])


class Process:
    """A measured process with its children, killed at the end."""

    def __init__(self, command: Command, *, log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command.arguments],
                env={**os.environ, **command.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def cpu(self) -> float:
        """Return the CPU seconds used so far by all threads and all living children."""
        return sum(map(cpu_seconds, self._family()))

    def memory(self, *, peak: bool = False) -> float:
        """Return the resident megabytes (10^6 bytes), now or at their peak."""
        return sum(_resident(pid, "VmHWM:" if peak else "VmRSS:") for pid in self._family())

    def check(self) -> None:
        if self._process.poll() is not None:
            raise StalledError(f"it ended with status {self._process.returncode}:\n{self.said()}")

    def said(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _family(self) -> list[int]:
        family = [self._process.pid]
        for pid in family:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    family += map(int, (task / "children").read_text().split())
        return family


def start(stack: contextlib.ExitStack, commands: Iterable[Command], place: Place, name: str) -> list[Process]:
    """Start processes that end with `stack`."""
    processes = []
    for number, command in enumerate(commands):
        process = Process(command, log=place.folder / f"{name}-{number}.log")
        stack.callback(process.kill)
        processes.append(process)
    return processes


def declare_queue(place: Place, queue: str, arguments: Mapping[str, object]) -> None:
    """Declare a durable queue and bind it to the exchange."""
    with contextlib.closing(amqp.Connection(place.url)) as connection:
        declare = commands.Queue.Declare(queue=queue, durable=True, arguments=dict(arguments))  # type: ignore[arg-type]
        connection.call(declare, commands.Queue.DeclareOk)
        connection.call(commands.Queue.Bind(queue=queue, exchange=EXCHANGE), commands.Queue.BindOk)


def fill(place: Place, queue: str, template: Template, events: int) -> None:
    """Publish events and wait until all of them are in the queue."""
    with contextlib.closing(amqp.Connection(place.url)) as connection:
        connection.publish(template.numbered(events))
        deadline = time.monotonic() + STORED_WITHIN
        while connection.ready(queue) < events:
            if time.monotonic() > deadline:
                raise StalledError(f"{connection.ready(queue)} of {events} events reached the queue")
            time.sleep(0.05)
    # The broker is still writing these to disk, which would slow a contestant that starts fast.
    time.sleep(SETTLING)


def wait_for_consumers(place: Place, queue: str, count: int, processes: Sequence[Process]) -> None:
    """Wait until a queue has this number of consumers."""
    deadline = time.monotonic() + STORED_WITHIN
    with contextlib.closing(amqp.Connection(place.url)) as connection:
        while connection.consumers(queue) < count:
            for process in processes:
                process.check()
            if time.monotonic() > deadline:
                raise StalledError(f"no consumer came:\n{processes[0].said()}")
            time.sleep(0.05)


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process with all its threads, or 0 if it is gone."""
    try:
        return time.clock_gettime((~pid) << 3 | 2)  # the kernel's number for the CPU clock of a process
    except OSError:
        return 0.0


def _resident(pid: int, line_of: str) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(line_of):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0
