"""Evicting by hand while a million events wait: `invalidator evict --direct` does not queue behind them."""

import contextlib
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from invalidator import settings
from invalidator.operate.evict import evict_directly
from tests.benchmarks.contestants import WORKER, Ours
from tests.benchmarks.stage import Place, Process, Stage, fill, start, wait_for_consumers

TIMES = 7


def direct(stage: Stage, events: int) -> dict[str, float]:
    """Measure the whole command, and the eviction alone, in three situations; return medians in milliseconds.

    ``idle``: no events. ``queued``: the events wait without a consumer. ``draining``: a worker drains them.
    """
    ours = Ours(name="ours")
    with stage.place() as place, contextlib.ExitStack() as stack:
        ours.declare(place)
        configuration = Path(ours.command(place, 0).environment["INVALIDATOR_CONFIG"])
        measured = _measure("idle", configuration)
        fill(place, ours.queue, ours.template(), events)
        measured |= _measure("queued", configuration)
        (worker,) = start(stack, [ours.command(place, 0)], place, "consumer")
        _wait_until_it_drains(stage, place, ours, worker)
        return measured | _measure("draining", configuration)


def _measure(situation: str, configuration: Path) -> dict[str, float]:
    def command() -> None:
        environment = {"INVALIDATOR_CONFIG": str(configuration)}
        subprocess.run([WORKER, "evict", "--direct", "product:1"], env=environment, check=True, capture_output=True)

    def eviction() -> None:
        (outcome,) = evict_directly(settings.load(configuration), [b"product:1"])
        assert outcome.evicted == 1

    return {f"{situation}, command": _median(command), f"{situation}, eviction alone": _median(eviction)}


def _median(act: Callable[[], None]) -> float:
    taken = []
    for _ in range(TIMES):
        began = time.monotonic()
        act()
        taken.append((time.monotonic() - began) * 1000)
    return statistics.median(taken)


def _wait_until_it_drains(stage: Stage, place: Place, ours: Ours, worker: Process) -> None:
    before = stage.deletes()
    wait_for_consumers(place, ours.queue, 1, [worker])
    while stage.deletes() - before < 1000:
        worker.check()
        time.sleep(0.01)
