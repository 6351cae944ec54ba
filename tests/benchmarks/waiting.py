"""The duration of `invalidator evict KEY --wait` on idle clusters: .venv/bin/python -m tests.benchmarks.waiting

There are two clusters of two nodes and a worker each. Two times are measured: the wait from publishing to the last
receipt, as the command prints it, and the whole command from start to exit.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.integration.shell import Shell
from tests.integration.shop import settings_for, worker_process
from tests.servers import Broker, Memcached


async def measure(shell: Shell, times: int) -> tuple[list[float], list[float]]:
    """Measure the milliseconds of the wait, and of the whole command."""
    waits, wholes = [], []
    for number in range(times):
        started = time.perf_counter()
        done = await shell.run("evict", f"product:{number}", "--wait", "-o", "json")
        wholes.append((time.perf_counter() - started) * 1000)
        assert done.returncode == 0, done.stderr
        waits.append(max(one["milliseconds"] for one in json.loads(done.stdout)["clusters"]))
    return waits, wholes


def main(times: int) -> None:
    with ExitStack() as stack:
        broker, folder = stack.enter_context(Broker()), Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shells = []
        for cluster in ("eu", "us"):
            nodes = [stack.enter_context(Memcached()) for _ in range(2)]
            shells.append(Shell(settings_for(broker.url(), nodes, cluster=cluster), broker, folder))
            stack.enter_context(worker_process(shells[-1].settings, folder))
        shells[0].configure(shells[0].settings)
        asyncio.run(_ready(shells[0]))
        waits, wholes = asyncio.run(measure(shells[0], times))
    print(f"{times} times, milliseconds   p50    p99    max")
    _print("waiting for the receipts", waits)
    _print("the whole command", wholes)


async def _ready(shell: Shell) -> None:
    while (await shell.run("evict", "product:first", "--wait")).returncode:
        pass


def _print(what: str, milliseconds: Sequence[float]) -> None:
    p99 = statistics.quantiles(milliseconds, n=100)[98]
    print(f"{what:<24} {statistics.median(milliseconds):6.1f} {p99:6.1f} {max(milliseconds):6.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
