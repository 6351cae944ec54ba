"""The speed at which a full queue is drained, and its cost.

fill the queue ─> start the consumers ─> first evictions seen ─> … ─> no further ones: the time between, the CPU
"""

import contextlib
import mmap
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.contestants import Contestant
from tests.benchmarks.stage import Place, Process, Stage, StalledError, fill, start

#: Seconds between two readings of the counters.
READ_EVERY = 0.01
#: Seconds without a further eviction that end a measurement once all were seen.
QUIET = 0.3
#: Seconds without progress after which a measurement has failed.
STALLED = 30.0


@dataclass(frozen=True)
class Drained:
    """One measurement. Neither speed nor CPU include the start."""

    events: int
    events_per_second: float
    #: CPU seconds of all consumer processes per 100,000 events.
    cpu: float
    #: The same of broker and nodes.
    server_cpu: float
    #: Peak of the resident megabytes (10^6 bytes) of a process with its children.
    memory: float


@dataclass(frozen=True)
class Reading:
    at: float
    done: int
    cpu: float
    server_cpu: float


def drain(stage: Stage, contestant: Contestant, events: int) -> Drained:
    """Measure once. Raise StalledError if the consumers stall."""
    with stage.place() as place, contextlib.ExitStack() as stack:
        contestant.declare(place)
        fill(place, contestant.queue, contestant.template(), events)
        done = stack.enter_context(_counted(stage, contestant, place))
        start(stack, contestant.company(place), place, "company")
        commands = [contestant.command(place, number) for number in range(contestant.workers)]
        processes = start(stack, commands, place, "consumer")
        first, last = _watch(stage, processes, done, enough=events * contestant.keys * contestant.copies)
        if first is last:
            raise StalledError(f"{events} events are too few: all were done between two readings")
        # Fences count as deletes, too, so the number of deletes is above `events`, and stands for them.
        share = (last.done - first.done) / last.done
        return Drained(
            events,
            events_per_second=events * share / (last.at - first.at),
            cpu=(last.cpu - first.cpu) / (events * share) * 100_000,
            server_cpu=(last.server_cpu - first.server_cpu) / (events * share) * 100_000,
            memory=max(process.memory(peak=True) for process in processes),
        )


def _watch(stage: Stage, processes: list[Process], done: Callable[[], int], *, enough: int) -> tuple[Reading, Reading]:
    """Return the first reading with any progress, and the first one after everything was done."""

    def read() -> Reading:
        count = done()
        return Reading(time.monotonic(), count, sum(process.cpu() for process in processes), stage.server_cpu())

    first: Reading | None = None
    last = read()
    while True:
        time.sleep(READ_EVERY)
        now = read()
        if now.done > last.done:
            first, last = first or now, now
        elif first and last.done >= enough and now.at - last.at > QUIET:
            return first, last
        elif now.at - last.at > STALLED:
            raise StalledError(f"{last.done} of {enough} after {STALLED:.0f} s of nothing:\n{processes[0].said()}")
        for process in processes:
            process.check()


@contextlib.contextmanager
def _counted(stage: Stage, contestant: Contestant, place: Place) -> Iterator[Callable[[], int]]:
    """Yield a function that counts the events evicted from now on."""
    if not contestant.counts_itself:
        before = stage.deletes()
        yield lambda: stage.deletes() - before
        return
    files = [_shared(place.folder / f"count-{number}") for number in range(contestant.workers)]
    yield lambda: sum(struct.unpack_from("=Q", file)[0] for file in files)


def _shared(path: Path) -> mmap.mmap:
    path.write_bytes(bytes(8))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 8)
