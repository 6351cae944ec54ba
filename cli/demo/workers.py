"""Workers, warmer and auditor as an operator runs them: one process each, with one configuration file per cluster."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import pika
from pika.adapters.blocking_connection import BlockingConnection
from pika.exceptions import ChannelClosedByBroker

from invalidator.errors import InvalidatorError

from .stores import Address

#: Seconds until all workers must consume.
START_DEADLINE = 30.0
#: Seconds for a process to exit after SIGTERM, a little more than a worker may take itself (worker.stop_within).
STOP_DEADLINE = 7.0
#: Variables that would override the configuration files, or make the processes report to systemd.
NOT_INHERITED = ("INVALIDATOR_", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_")

#: Lines of an auditor's log: it is receiving both.
RECEIVING = "receiving product updates", "receiving announcements"

CONFIGURATION = """\
cluster = {cluster}

[broker]
url = {broker}

[ring]
nodes = {nodes}

[log]
format = "console"

[metrics]
listen = "off"

[[rule]]
on = "product_updated"
evict = ["product:{{id}}"]
"""


class WorkersError(InvalidatorError):
    """Raised when the demo's workers do not start. The message contains their logs."""


class Workers:
    """A number of worker processes (`each`) for every cluster, from entering to leaving."""

    def __init__(self, broker: str, clusters: Mapping[str, Sequence[Address]], *, each: int = 2) -> None:
        self.each = each
        self._broker = broker
        self._clusters = clusters
        self._processes: dict[Path, subprocess.Popen[bytes]] = {}
        self._open = ExitStack()

    def __len__(self) -> int:
        return len(self._processes)

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            self._folder = Path(opening.enter_context(tempfile.TemporaryDirectory(prefix="invalidator-demo-")))
            opening.callback(lambda: _stop(self._processes.values()))
            for cluster, nodes in self._clusters.items():
                file = self._configuration(cluster)
                file.touch(mode=0o600)  # the URL may hold a password
                file.write_text(configuration(cluster, self._broker, nodes))
                for number in range(1, self.each + 1):
                    log = self._folder / f"worker-{cluster}-{number}.log"
                    self._processes[log] = _start(log, "worker", "--config", str(file))
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def wait_until_ready(self) -> None:
        """Return when every cluster's queue has its consumers.

        Raises:
            WorkersError: a worker exited, or START_DEADLINE passed.
        """
        deadline = time.monotonic() + START_DEADLINE
        with BlockingConnection(pika.URLParameters(self._broker)) as connection:
            waiting = [f"invalidator.{cluster}" for cluster in self._clusters]
            while waiting := [queue for queue in waiting if _consumers(connection, queue) < self.each]:
                self.check()
                if time.monotonic() > deadline:
                    raise WorkersError(f"fewer than {self.each} consumers on {' and '.join(waiting)}: {self._logs()}")
                time.sleep(0.05)

    @contextmanager
    def warmer(self, cluster: str, loader: str, environment: Mapping[str, str]) -> Iterator[None]:
        """Run `invalidator warm` beside that cluster's workers. It may not be listening yet."""
        with self._beside("warmer", cluster, "warm", "--loader", loader, environment=environment):
            yield

    @contextmanager
    def auditor(self, cluster: str, source: str, environment: Mapping[str, str]) -> Iterator[None]:
        """Run `invalidator audit` beside that cluster's workers, and yield once it receives changes and announcements.

        Raises:
            WorkersError: it exited, or START_DEADLINE passed.
        """
        deadline = time.monotonic() + START_DEADLINE
        with self._beside("auditor", cluster, "audit", "--source", source, environment=environment) as log:
            while not all(line in log.read_text() for line in RECEIVING):
                self.check()
                if time.monotonic() > deadline:
                    raise WorkersError(f"the auditor receives nothing: {_tail(log)}")
                time.sleep(0.02)
            yield

    @contextmanager
    def _beside(self, name: str, cluster: str, *command: str, environment: Mapping[str, str]) -> Iterator[Path]:
        """Run another process with that cluster's configuration, and yield the path of its log."""
        log = self._folder / f"{name}-{cluster}.log"
        arguments = [*command, "--config", str(self._configuration(cluster))]
        self._processes[log] = process = _start(log, *arguments, environment=environment)
        try:
            yield log
        finally:
            del self._processes[log]
            _stop([process])

    def check(self) -> None:
        """Raise `WorkersError` if a process has exited."""
        for log, process in self._processes.items():
            if process.poll() is not None:
                raise WorkersError(f"{log.stem} exited with status {process.returncode}: {_tail(log)}")

    def _logs(self) -> str:
        return "".join(f"\n{log.stem}: {_tail(log)}" for log in self._processes)

    def _configuration(self, cluster: str) -> Path:
        return self._folder / f"{cluster}.toml"


def configuration(cluster: str, broker: str, nodes: Sequence[Address]) -> str:
    # A JSON string is a TOML string, and so is a list of them.
    return CONFIGURATION.format(
        cluster=json.dumps(cluster),
        broker=json.dumps(broker),
        nodes=json.dumps([f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in nodes]),
    )


def _start(log: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "invalidator_cli.main", *arguments]
    if setpriv := shutil.which("setpriv"):  # so that no process outlives a demo that is killed
        command = [setpriv, "--pdeathsig", "KILL", "--", *command]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
    with log.open("wb") as output:
        # In a session of its own it does not receive the terminal's Ctrl-C: we stop it when the story is over.
        return subprocess.Popen(  # noqa: S603 (our own command)
            command,
            env=inherited | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _stop(processes: Collection["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + STOP_DEADLINE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _consumers(connection: BlockingConnection, queue: str) -> int:
    channel = connection.channel()
    try:
        found: int = channel.queue_declare(queue, passive=True).method.consumer_count
    except ChannelClosedByBroker:  # no such queue yet
        return 0
    channel.close()
    return found


def _tail(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-1500:] or "it logged nothing"
