"""One server process: how it is started, so that it dies with us, waited for, signalled and ended."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

#: Seconds a server may take to answer after its start; a broker on a busy machine needs about ten.
START_DEADLINE = 60.0

#: The kernel sends the parent-death signal when the *thread* that started a process ends. So one thread, which lives
#: as long as this process, starts them all.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="servers")


class ServerError(Exception):
    """Raised when a private server does not start or a command to it fails. Its text is the server's output."""


def free_port() -> int:
    """Return a loopback port on which nobody listens, below the range that the kernel uses for outgoing connections."""
    # The system's own randomness, because test runs side by side may have seeded Python's with the same number.
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerError("no free loopback port between 20000 and 32000")


def wait_until(answers: Callable[[], bool], process: subprocess.Popen[bytes], *, output: Path) -> None:
    """Return once `answers()` is true. Raise ServerError if the process ends or START_DEADLINE passes before."""
    deadline = time.monotonic() + START_DEADLINE
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            said = output.read_text(errors="replace")[-2000:]
            raise ServerError(f"{process.args!r} does not answer (exit status {process.returncode}); it said:\n{said}")
        time.sleep(0.02)


class Server:
    """One process and its folder."""

    def __init__(self, folder: Path | None) -> None:
        self.own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="invalidator-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and return once it answers. Raise ServerError if it does not, or if it already runs."""
        if self.running:
            raise ServerError(f"{self} is running already")
        self.process = self._spawn()
        wait_until(self._answers, self.process, output=self.folder / "output")

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """Send SIGKILL, as the kernel does when memory is short. The ports are free when this returns."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Send SIGTERM and wait for the end."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Send SIGSTOP and wait until it hangs. The kernel still accepts connections for it."""
        assert self.process
        self._signal(signal.SIGSTOP)
        # The signal alone is no promise: a busy server may still answer for a while, thread by thread.
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End for good, and remove the folder if it was created here."""
        self.kill()
        if self.own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)

    def _answers(self) -> bool:
        raise NotImplementedError

    def _spawn(self) -> subprocess.Popen[bytes]:
        """Start a process that dies with this one, ignores this terminal's Ctrl-C, and writes to `folder`/output."""
        with (self.folder / "output").open("ab") as output:
            start = _SPAWNER.submit(
                subprocess.Popen[bytes],
                ["setpriv", "--pdeathsig", "KILL", "--", *self._command()],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            return start.result()

    def _signal(self, number: signal.Signals) -> None:
        if not self.running or self.process is None:
            raise ServerError(f"{self} is not running")
        self.process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(number)
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.wait(START_DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __str__(self) -> str:
        return f"{type(self).__name__} in {self.folder}"
