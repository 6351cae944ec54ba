"""The results of a run: one row for each measurement, from which everything else is computed."""

import os
import platform
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from tests.benchmarks.drain import Drained
from tests.benchmarks.environment import versions
from tests.benchmarks.latency import Latency
from tests.servers import Broker

M = TypeVar("M", Drained, Latency)


@dataclass(frozen=True)
class Row(Generic[M]):
    """One measurement. Rows of one round were taken one right after the other and can be compared."""

    name: str
    round: int
    #: The machine's load average just before.
    load: float
    measured: M


@dataclass
class Results:
    about: dict[str, Any]
    drained: list[Row[Drained]] = field(default_factory=list)
    latencies: list[Row[Latency]] = field(default_factory=list)
    #: Milliseconds by situation, see `direct`.
    direct: dict[str, float] = field(default_factory=dict)
    #: Seconds that `invalidator --help` took.
    help: list[float] = field(default_factory=list)
    soak: dict[str, float] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        return min(Counter(row.name for row in self.drained).values(), default=0)

    def drain(self, name: str, what: str) -> list[float]:
        """Return one figure of one contestant for each round."""
        return [getattr(row.measured, what) for row in self.drained if row.name == name]

    def latency(self, name: str, rate: int, what: str) -> list[float]:
        rows = (row.measured for row in self.latencies if row.name == name)
        return [getattr(measured, what) for measured in rows if measured.rate == rate]

    def over(self, name: str, floor: str, rate: int) -> float | None:
        """Return the median difference between a median latency and the floor's in the same round."""
        pairs = zip(self.latency(name, rate, "p50"), self.latency(floor, rate, "p50"), strict=False)
        return median(mine - its for mine, its in pairs)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The time of an event that never happened is infinite, which JSON cannot express: write null.
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


def median(figures: Iterable[float]) -> float | None:
    known = list(figures)
    return statistics.median(known) if known else None


def about(broker: Broker) -> dict[str, Any]:
    """Return the time, the machine, its load and the versions of a run."""
    packages = ("aio-pika", "aiormq", "msgspec", "mmh3")
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "rabbitmq": broker.version,
        "peers": versions(),
        "packages": {name: version(name) for name in packages},
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
