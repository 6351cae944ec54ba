"""The time that a caller waits for its own write: from the call of `publish` to its return.

    publish ─> confirmed by the broker                                     (without `wait`)
    publish ─> confirmed ─> worker ─> every node ─> receipt: gone here     (with `wait`)

A broker, a worker and two nodes run in a process each. The ways take turns of a second: all meet the same noise.

    .venv/bin/python -m tests.benchmarks.own_writes [RATE [SECONDS]]
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec

from invalidator.app import AsyncPublisher, Publisher, Receipt
from invalidator.settings import LogSettings
from tests.integration.shop import settings_for, worker_process
from tests.servers import Broker, Memcached

Publish = Callable[[int], Awaitable[Receipt | None]]
#: Seconds of a turn. The first of each way is not counted.
TURN_SECONDS = 1


async def measure(publish: Publish, *, rate: float, waits: bool) -> list[float]:
    """Publish for a turn, on schedule, and return milliseconds."""
    taken, began = [], time.perf_counter()
    for number in range(int(rate * TURN_SECONDS)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        called = time.perf_counter()
        receipt = await publish(number)
        taken.append((time.perf_counter() - called) * 1000)
        assert not waits or (receipt and receipt.is_gone), "not gone in time"
    return taken


async def compare(url: str, *, rate: float, seconds: float) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {}
    with Publisher(url, timeout=10, cluster="eu") as threads:
        async with AsyncPublisher(url, timeout=10, cluster="eu") as loop:

            async def blocking(id: int, wait: float | None = None) -> Receipt | None:
                return threads.publish("product_updated", {"id": id}, wait=wait)

            async def in_loop(id: int, wait: float | None = None) -> Receipt | None:
                return await loop.publish("product_updated", {"id": id}, wait=wait)

            ways: dict[str, tuple[Publish, bool]] = {
                "Publisher": (blocking, False),
                "Publisher, wait": (lambda number: blocking(number, 5.0), True),
                "AsyncPublisher": (in_loop, False),
                "AsyncPublisher, wait": (lambda number: in_loop(number, 5.0), True),
            }
            for turn in range(1 + int(seconds / TURN_SECONDS)):
                for name, (publish, waits) in ways.items():
                    milliseconds = await measure(publish, rate=rate, waits=waits)
                    taken.setdefault(name, []).extend(milliseconds if turn else [])
    return taken


def main(rate: float, seconds: float) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        nodes = [stack.enter_context(Memcached()) for _ in range(2)]
        url = stack.enter_context(Broker()).url()
        settings = msgspec.structs.replace(settings_for(url, nodes), log=LogSettings(level="error"))
        stack.enter_context(worker_process(settings, folder))
        while not asyncio.run(_works(url)):
            time.sleep(0.1)
        taken = asyncio.run(compare(url, rate=rate, seconds=seconds))
    print(f"{len(taken['Publisher'])} publishes of each kind at {rate:g} a second, milliseconds from call to return:")
    for name, milliseconds in taken.items():
        percentiles = statistics.quantiles(milliseconds, n=100)
        print(f"{name:22} p50 {percentiles[49]:5.2f}  p99 {percentiles[98]:5.2f}  max {max(milliseconds):6.1f}")


async def _works(url: str) -> bool:
    try:
        async with AsyncPublisher(url, cluster="eu") as publisher:
            return await publisher.publish("product_updated", {"id": 0}, wait=1.0) is not None
    except Exception:  # noqa: BLE001  no queue is bound yet
        return False


if __name__ == "__main__":
    main(*(float(argument) for argument in (sys.argv[1:] + ["200", "10"][len(sys.argv[1:]) :])))
