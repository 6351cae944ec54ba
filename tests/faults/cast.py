"""The processes of a run, as seen by the one that directs it: workers, shops and the wires."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults.shop import Part, Report
from tests.faults.wires import Act

#: Seconds after which a worker that ended is started again, as systemd would do.
RESTART_SECONDS = 0.5
#: Seconds that a worker may take to end after SIGTERM, a little more than it gives itself.
STOP_SECONDS = 10.0
#: Times that a worker may end by itself. The stock way ends whenever the broker does.
LIVES = 200


async def spawn(*command: str, **streams: Any) -> Process:
    """Start a process that dies with this one and ignores this terminal's Ctrl-C."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INVALIDATOR_")}
    return await asyncio.create_subprocess_exec(
        *("setpriv", "--pdeathsig", "KILL", "--", *command), env=environment, start_new_session=True, **streams
    )


class Worker:
    """A worker that is started again whenever it ends, until it is stopped. Each life has its own log file."""

    def __init__(self, number: int, command: Sequence[str], folder: Path) -> None:
        self.name = f"worker-{number}"
        #: Sentences about ends that nobody asked for.
        self.surprises: list[str] = []
        self._command = command
        self._folder = folder
        self._process: Process | None = None
        self._lives = 0
        self._told = False
        self.running: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.running = asyncio.create_task(self._run())

    def kill(self) -> None:
        """Send SIGKILL, unless the process has just been killed."""
        self._told = True
        if self._process:
            with suppress(ProcessLookupError):
                self._process.kill()

    def pause(self) -> None:
        """Send SIGSTOP."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    async def kill_for_good(self) -> None:
        """Send SIGKILL and wait for the end. Nothing starts it again but `start`."""
        await self._leave_alone()
        self.kill()
        if self._process:
            await self._process.wait()

    async def stop(self) -> None:
        """Send SIGTERM and wait for the end."""
        await self._leave_alone()
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            status = await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            status = await process.wait()
        if status:
            self.surprises.append(f"{self.name} was stopped and ended with {status}")

    async def _leave_alone(self) -> None:
        assert self.running
        self.running.cancel()
        with suppress(asyncio.CancelledError):
            await self.running

    async def _run(self) -> None:
        while True:
            self._told = False
            self._lives += 1
            with (self._folder / f"{self.name}.{self._lives}.log").open("wb") as log:
                self._process = await spawn(*self._command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log)
            status = await self._process.wait()
            if not self._told:
                self.surprises.append(f"{self.name} ended by itself, with {status}")
                if len(self.surprises) > LIVES:
                    raise RuntimeError(f"{self.name} keeps ending by itself; see {log.name}")
            await asyncio.sleep(RESTART_SECONDS)


class Shop:
    """A shop's process and its last report."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.report = Report(0.0, 0, 0, False, 0, 0.0, 0.0)
        #: The longest staleness reported since this was set to 0, in seconds.
        self.slowest = 0.0
        self._process: Process | None = None
        self.listening: asyncio.Task[None] | None = None

    async def start(self) -> None:
        part = json.dumps(asdict(self.part))
        self._process = await spawn(sys.executable, "-m", "tests.faults.shop", part, stdin=PIPE, stdout=PIPE)
        self.listening = asyncio.create_task(self._listen())

    async def close(self) -> dict[str, Any]:
        """End it and return its books."""
        assert self._process and self._process.stdin
        self._process.stdin.write(b"end\n")
        if status := await self._process.wait():
            raise RuntimeError(f"a shop ended with {status}")
        return _read(self.part.file)

    async def _listen(self) -> None:
        assert self._process and self._process.stdout
        while line := await self._process.stdout.readline():
            self.report = Report(**json.loads(line))
            self.slowest = max(self.slowest, self.report.slowest)


def _read(file: str) -> dict[str, Any]:
    known: dict[str, Any] = json.loads(Path(file).read_text())
    return known


class Wires:
    """The process of proxies. `addresses` maps labels to their addresses once it has started."""

    def __init__(self, targets: dict[str, str]) -> None:
        self._targets = targets
        self.addresses: dict[str, str] = {}
        self._process: Process | None = None

    async def start(self) -> None:
        targets = [f"{label}={target}" for label, target in self._targets.items()]
        self._process = await spawn(sys.executable, "-m", "tests.faults.wires", *targets, stdin=PIPE, stdout=PIPE)
        assert self._process.stdout
        self.addresses = json.loads(await self._process.stdout.readline())

    def order(self, label: str, act: Act, times: int = 1) -> None:
        assert self._process and self._process.stdin
        self._process.stdin.write(json.dumps({"node": label, "act": act, "times": times}).encode() + b"\n")

    async def close(self) -> None:
        if self._process and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
