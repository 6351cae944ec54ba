"""The memory of one worker while ten million events go through it, published as it works."""

import contextlib
import statistics
import threading
import time

from tests.benchmarks import amqp
from tests.benchmarks.contestants import Ours
from tests.benchmarks.stage import Place, Process, Stage, StalledError, start, wait_for_consumers

EVENTS = 10_000_000
#: Events after which memory is measured first: by then everything has been used once.
EARLY = 1_000_000
#: Number of events published at once, and of events that may wait in the queue.
AT_ONCE, WAITING = 50_000, 200_000
#: Share of the events, before each of the two points, over which memory is averaged.
WINDOW = 0.05
SAMPLE_EVERY = 0.05
#: Seconds without an eviction after which all is done, if all is published, or else the run has failed.
QUIET, STALLED = 1.0, 30.0


def soak(stage: Stage, events: int = EVENTS) -> dict[str, float]:
    """Return the resident megabytes at EARLY events and at the end (medians of many samples), and the peak."""
    ours = Ours(name="ours")
    early = min(EARLY, events // 10)
    with stage.place() as place, contextlib.ExitStack() as stack:
        ours.declare(place)
        start(stack, ours.company(place), place, "company")
        (worker,) = start(stack, [ours.command(place, 0)], place, "consumer")
        wait_for_consumers(place, ours.queue, 1, [worker])
        publishing = threading.Thread(target=_publish, args=(place, ours, events), daemon=True)
        publishing.start()
        samples = _watch(stage, worker, publishing)
        if samples[-1][0] < events:
            raise StalledError(f"{samples[-1][0]} of {events} events were evicted:\n{worker.said()}")
    return {
        "events": events,
        "early events": early,
        "early": _median_before(samples, early),
        "late": _median_before(samples, events),
        "highest": max(memory for _, memory in samples),
    }


def _publish(place: Place, ours: Ours, events: int) -> None:
    with contextlib.closing(amqp.Connection(place.url)) as connection:
        for first in range(0, events, AT_ONCE):
            while connection.ready(ours.queue) > WAITING:
                time.sleep(SAMPLE_EVERY)
            connection.publish(ours.template().numbered(min(AT_ONCE, events - first), start=first))


def _watch(stage: Stage, worker: Process, publishing: threading.Thread) -> list[tuple[int, float]]:
    """Sample (deletes, megabytes) again and again. Deletes are the events, and one fence in hundreds."""
    before = stage.deletes()
    samples = [(0, worker.memory())]
    moved = time.monotonic()
    while publishing.is_alive() or time.monotonic() - moved < QUIET:
        time.sleep(SAMPLE_EVERY)
        worker.check()
        samples.append((stage.deletes() - before, worker.memory()))
        if samples[-1][0] > samples[-2][0]:
            moved = time.monotonic()
        elif time.monotonic() - moved > STALLED:
            raise StalledError(f"stuck after {samples[-1][0]} events:\n{worker.said()}")
    return samples


def _median_before(samples: list[tuple[int, float]], events: int) -> float:
    return statistics.median(
        memory for done, memory in samples if events * (1 - WINDOW) <= done <= events * (1 + WINDOW)
    )
