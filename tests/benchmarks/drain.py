"""How fast a queue that is full is emptied, and what that costs.

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

#: Seconds between two looks at the counters.
LOOK_EVERY = 0.01
#: Seconds without a further eviction, when all were seen, that end a measurement.
QUIET = 0.3
#: Seconds without progress that end it as failed.
STALLED = 30.0


@dataclass(frozen=True)
class Drained:
    """One measurement. Start-up is in neither speed nor CPU."""

    events: int
    events_per_second: float
    #: CPU seconds of all consumer processes per 100,000 events.
    cpu: float
    #: The same of broker and nodes.
    server_cpu: float
    #: Megabytes (10^6 bytes) resident at most, a process with its children.
    memory: float


@dataclass(frozen=True)
class Look:
    at: float
    done: int
    cpu: float
    server_cpu: float


def drain(stage: Stage, contestant: Contestant, events: int) -> Drained:
    """Measure once. Raises StalledError."""
    with stage.place() as place, contextlib.ExitStack() as stack:
        contestant.declare(place)
        fill(place, contestant.queue, contestant.template(), events)
        done = stack.enter_context(_counted(stage, contestant, place))
        start(stack, contestant.company(place), place, "company")
        commands = [contestant.command(place, number) for number in range(contestant.workers)]
        processes = start(stack, commands, place, "consumer")
        first, last = _watch(stage, processes, done, enough=events * contestant.keys * contestant.copies)
        if first is last:
            raise StalledError(f"{events} events are too few: all were done between two looks")
        # Fences count as deletes, too: what was counted stands for `events`, however much it was.
        share = (last.done - first.done) / last.done
        return Drained(
            events,
            events_per_second=events * share / (last.at - first.at),
            cpu=(last.cpu - first.cpu) / (events * share) * 100_000,
            server_cpu=(last.server_cpu - first.server_cpu) / (events * share) * 100_000,
            memory=max(process.memory(peak=True) for process in processes),
        )


def _watch(stage: Stage, processes: list[Process], done: Callable[[], int], *, enough: int) -> tuple[Look, Look]:
    """The first look that saw something done, and the first that saw everything done."""

    def look() -> Look:
        count = done()
        return Look(time.monotonic(), count, sum(process.cpu() for process in processes), stage.server_cpu())

    first: Look | None = None
    last = look()
    while True:
        time.sleep(LOOK_EVERY)
        now = look()
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
    """What has been done since now."""
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
