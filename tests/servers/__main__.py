"""The servers as a command: keep a set of them running in the background, or around one command."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import Broker, Memcached
from .process import wait_until

ROOT = Path(__file__).parents[2]
#: Cluster -> number of memcached nodes that `up` and `run` start.
CLUSTERS = {"eu": 3, "us": 3}


@contextlib.contextmanager
def demo_set(folder: Path) -> Iterator[dict[str, str]]:
    """Start one broker and CLUSTERS of memcached nodes; yield their addresses as environment variables."""
    with contextlib.ExitStack() as stack:
        nodes = {
            cluster: [Memcached(folder=folder / f"{cluster}-{number}") for number in range(1, count + 1)]
            for cluster, count in CLUSTERS.items()
        }
        for node in [node for cluster in nodes.values() for node in cluster]:
            stack.enter_context(node)
        shutil.rmtree(folder / "broker", ignore_errors=True)
        broker = stack.enter_context(Broker(folder / "broker"))
        addresses = {f"SERVERS_{name.upper()}": ",".join(n.address for n in cluster) for name, cluster in nodes.items()}
        yield {"SERVERS_BROKER": broker.url(), "SERVERS_MANAGEMENT": broker.management_url, **addresses}


def run(command: list[str]) -> int:
    """Run COMMAND with a set of servers; $SERVERS_BROKER, _MANAGEMENT, _EU and _US hold their addresses."""
    with tempfile.TemporaryDirectory(prefix="invalidator-") as folder, demo_set(Path(folder)) as addresses:
        child = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *command], env={**os.environ, **addresses})
        # Ctrl-C reaches COMMAND from the terminal. COMMAND ends by itself, and the servers after it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        status = child.wait()
    return status if status >= 0 else 128 - status


def serve(folder: Path) -> int:
    """Run a set of servers until SIGTERM. `up` starts this in the background."""
    record = folder / "servers.json"
    with demo_set(folder) as addresses:
        partial = folder / "servers.partial"
        partial.write_text(json.dumps({"pid": os.getpid(), **addresses}, indent=2) + "\n")
        partial.rename(record)
        try:
            while True:
                signal.pause()
        finally:
            record.unlink()


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    folder = ROOT / ".dev"
    match arguments:
        case ["run", "--", *command] if command:
            return run(command)
        case ["up"]:
            return up(folder)
        case ["status"]:
            return status(folder)
        case ["down"]:
            return down(folder)
        case ["serve"]:
            return serve(folder)
        case _:
            print("usage: python -m tests.servers up | down | status | run -- COMMAND [ARGUMENTS]", file=sys.stderr)
            return 2


def up(folder: Path) -> int:
    if _recorded(folder):
        return status(folder)
    folder.mkdir(exist_ok=True)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", __package__, "serve"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=ROOT,
        )
    wait_until(lambda: bool(_recorded(folder)), server, output=folder / "log")
    return status(folder)


def down(folder: Path) -> int:
    record = _recorded(folder)
    if record:
        pid = int(record["pid"])
        os.kill(pid, signal.SIGTERM)
        while _is_ours(pid):
            time.sleep(0.05)
    print("servers are down")
    return 0


def status(folder: Path) -> int:
    record = _recorded(folder)
    for name, value in record.items():
        print(f"{name}={value}")
    if not record:
        print("servers are down")
    return 0 if record else 1


def _recorded(folder: Path) -> dict[str, Any]:
    """Return the contents of servers.json, or nothing if the process it names is gone."""
    try:
        record: dict[str, Any] = json.loads((folder / "servers.json").read_text())
    except FileNotFoundError:
        return {}
    return record if _is_ours(int(record["pid"])) else {}


def _is_ours(pid: int) -> bool:
    """Return True if the process exists and runs `serve`; its number may have been reused."""
    try:
        return b"tests.servers\0serve" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
