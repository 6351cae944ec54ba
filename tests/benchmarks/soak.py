"""Whether memory stays what it is: ten million events through one worker, published while it works."""

import contextlib
import statistics
import threading
import time

from tests.benchmarks import amqp
from tests.benchmarks.contestants import Ours
from tests.benchmarks.stage import Place, Process, Stage, StalledError, start, wait_for_consumers

EVENTS = 10_000_000
#: Events after which memory is looked at first: by then everything has been used once.
EARLY = 1_000_000
#: Events published at once, and events that may wait in the queue.
AT_ONCE, WAITING = 50_000, 200_000
#: The share of events before each of the two points in which memory is averaged.
WINDOW = 0.05
LOOK_EVERY = 0.05
#: Seconds without an eviction, when all is published, after which all is done; or before that, after which none comes.
QUIET, STALLED = 1.0, 30.0


def soak(stage: Stage, events: int = EVENTS) -> dict[str, float]:
    """Megabytes resident at EARLY events and at the end (medians of many looks just before), and the highest."""
    ours = Ours(name="ours")
    early = min(EARLY, events // 10)
    with stage.place() as place, contextlib.ExitStack() as stack:
        ours.declare(place)
        start(stack, ours.company(place), place, "company")
        (worker,) = start(stack, [ours.command(place, 0)], place, "consumer")
        wait_for_consumers(place, ours.queue, 1, [worker])
        publishing = threading.Thread(target=_publish, args=(place, ours, events), daemon=True)
        publishing.start()
        looks = _watch(stage, worker, publishing)
        if looks[-1][0] < events:
            raise StalledError(f"{looks[-1][0]} of {events} events were evicted:\n{worker.said()}")
    return {
        "events": events,
        "early events": early,
        "early": _median_before(looks, early),
        "late": _median_before(looks, events),
        "highest": max(memory for _, memory in looks),
    }


def _publish(place: Place, ours: Ours, events: int) -> None:
    with contextlib.closing(amqp.Connection(place.url)) as connection:
        for first in range(0, events, AT_ONCE):
            while connection.ready(ours.queue) > WAITING:
                time.sleep(LOOK_EVERY)
            connection.publish(ours.template().numbered(min(AT_ONCE, events - first), start=first))


def _watch(stage: Stage, worker: Process, publishing: threading.Thread) -> list[tuple[int, float]]:
    """(deletes done, which are the events and one fence in hundreds, and megabytes), again and again."""
    before = stage.deletes()
    looks = [(0, worker.memory())]
    moved = time.monotonic()
    while publishing.is_alive() or time.monotonic() - moved < QUIET:
        time.sleep(LOOK_EVERY)
        worker.check()
        looks.append((stage.deletes() - before, worker.memory()))
        if looks[-1][0] > looks[-2][0]:
            moved = time.monotonic()
        elif time.monotonic() - moved > STALLED:
            raise StalledError(f"stuck after {looks[-1][0]} events:\n{worker.said()}")
    return looks


def _median_before(looks: list[tuple[int, float]], events: int) -> float:
    return statistics.median(memory for done, memory in looks if events * (1 - WINDOW) <= done <= events * (1 + WINDOW))
