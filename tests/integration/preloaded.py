"""The `invalidator` command without the cost of its imports: a process that has them all forks for each command.

    run ──(arguments, environment, three files, a socket)──> server ──fork──> monitor ──fork──> the command
     └────────────────────────<── its exit status ──<───────────────────────────┘

Run as a module, this is the server. It lives as long as the process that started it, and a command lives no longer
than the call that waits for it. $PYTHON… variables have no effect on a command that starts like this.
"""

import asyncio
import atexit
import fcntl
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PACKAGES = ("invalidator", "invalidator_cli")
#: More than any request takes; most of it is the environment.
REQUEST_BYTES = 200_000
ROOT = Path(__file__).parents[2]


async def run(
    arguments: Sequence[str], *, environ: Mapping[str, str], stdin: bytes = b""
) -> "subprocess.CompletedProcess[str]":
    """Run `invalidator` with these arguments in exactly this environment."""
    files = [_pipe_with(stdin), os.memfd_create("stdout"), os.memfd_create("stderr")]
    caller, monitor = socket.socketpair()
    try:
        with caller:
            with monitor:
                request = json.dumps([str(Path.cwd()), dict(environ), list(arguments)]).encode()
                socket.send_fds(_server(), [request], [monitor.fileno(), *files])
            caller.setblocking(False)
            status = await asyncio.get_running_loop().sock_recv(caller, 16)
        assert status, "the process that forks for each command has ended"
        out, err = (os.pread(file, os.fstat(file).st_size, 0).decode() for file in files[1:])
    finally:
        for file in files:
            os.close(file)
    return subprocess.CompletedProcess(["invalidator", *arguments], int(status), out, err)


def _pipe_with(text: bytes) -> int:
    """Return the end to read from of a pipe that holds all this text: no file, which some commands read twice."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, max(len(text), 4096))
    os.write(writing, text)
    os.close(writing)
    return reading


@functools.cache
def _server() -> socket.socket:
    """Start the server, once in this process, and return the socket for requests. It ends when that is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-m", __name__, str(theirs.fileno())]
        server = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], start_new_session=True)

    def end() -> None:
        ours.close()
        server.wait()

    atexit.register(end)
    return ours


def _main(requests: socket.socket) -> None:
    """Serve requests; each of them returns here once, in a process of its own that is to be the command."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.startswith("invalidator.app.django."):  # no command; it needs Django's settings
                importlib.import_module(module.name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # monitors need nobody to wait for them
    while True:
        body, files, *_ = socket.recv_fds(requests, REQUEST_BYTES, 4)
        if not body:
            sys.exit()
        if os.fork() == 0:
            break
        for file in files:
            os.close(file)
    requests.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.socket(fileno=files[0]) as caller:
        if pid := os.fork():
            _monitor(pid, caller)
    _become(json.loads(body), files[1:])


def _monitor(pid: int, caller: socket.socket) -> None:
    """Report the exit status of a process to its caller, or kill it when the caller has gone. Never returns."""
    pidfd = os.pidfd_open(pid)
    select.select([pidfd, caller.fileno()], [], [])  # a caller says nothing: it can only go
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)  # without effect on a process that has ended
    _, status = os.waitpid(pid, 0)
    try:
        caller.send(b"%d" % os.waitstatus_to_exitcode(status))
    finally:
        os._exit(0)


def _become(request: tuple[str, dict[str, str], list[str]], files: Sequence[int]) -> None:
    """Take the place of a process that was started with this request."""
    folder, environ, arguments = request
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["invalidator", *arguments]
    sys.modules["__main__"].__package__ = ""  # or usage lines call the command "python -m ..."


if __name__ == "__main__":
    _main(socket.socket(fileno=int(sys.argv[1])))
    importlib.import_module("invalidator_cli.main").main()
