"""`dev bench`: speed, latency and cost of the worker, the limit, the floor and the alternatives, all in one run.

Measurements are interleaved: a round measures each contestant once, and the report shows medians over rounds. A run
takes under 40 minutes, with --quick under 4. Nothing else should run on the machine meanwhile. Its load is recorded.
`--reads` measures the application's reads instead (see `reads`), `--relay` the way out of the outbox (see `relay`).
"""

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from tests.benchmarks.contestants import WORKER, Contestant
from tests.benchmarks.direct import direct
from tests.benchmarks.drain import drain
from tests.benchmarks.environment import make_environment
from tests.benchmarks.latency import Latency, latency
from tests.benchmarks.plot import draw
from tests.benchmarks.programme import FULL, QUICK, Programme
from tests.benchmarks.reads import reads
from tests.benchmarks.relay import relay
from tests.benchmarks.report import report
from tests.benchmarks.results import M, Results, Row, about
from tests.benchmarks.soak import EVENTS, soak
from tests.benchmarks.stage import ROOT, Stage, StalledError

OUT = ROOT / ".dev" / "bench"
#: The pictures that README and handbook show.
PUBLISHED = ROOT / "conf" / "pictures"
#: Number of times that `invalidator --help` is timed.
HELPS = 7
#: Load average above which other programs disturb a run.
BUSY = 0.5


class Run:
    def __init__(self, stage: Stage, programme: Programme) -> None:
        self._stage = stage
        self._programme = programme
        self._began = time.monotonic()
        self.results = Results(about(stage.broker))

    def drains(self) -> None:
        programme = self._programme
        for round in self._rounds(programme.rounds, programme.drains_until):
            for contestant in _shuffled(programme.drains, round):
                self._drain(contestant, round, int(programme.events * programme.drains[contestant]))

    def _drain(self, contestant: Contestant, round: int, events: int) -> None:
        if row := self._measure(contestant, round, lambda: drain(self._stage, contestant, events)):
            self.results.drained.append(row)
            cost = f"{row.measured.cpu:.2f} CPU s/100k"
            self._say(f"{contestant.name}: {row.measured.events_per_second:,.0f} events/s, {cost}")

    def latencies(self) -> None:
        programme = self._programme
        for round in self._rounds(programme.latency_rounds, programme.latencies_until):
            for rate in programme.rates:
                for contestant in programme.timed:
                    self._latency(contestant, round, rate)

    def _latency(self, contestant: Contestant, round: int, rate: int) -> None:
        def act() -> Latency:
            return latency(self._stage, contestant, rate=rate, seconds=self._programme.seconds)

        if row := self._measure(contestant, round, act):
            self.results.latencies.append(row)
            measured = row.measured
            self._say(f"{contestant.name} at {rate}/s: p50 {measured.p50:.2f} ms, p99 {measured.p99:.2f} ms")

    def others(self) -> None:
        for _ in range(HELPS):
            began = time.monotonic()
            subprocess.run([WORKER, "--help"], check=True, capture_output=True)
            self.results.help.append(time.monotonic() - began)
        self.results.direct = direct(self._stage, self._programme.queued)
        self._say("evict --direct: done")

    def soak(self, events: int) -> None:
        self.results.soak = soak(self._stage, events)

    def _rounds(self, count: int, until: float) -> Iterator[int]:
        """Yield rounds that are likely to end within a number of seconds of the run, and one in any case."""
        longest = 0.0
        for round in range(count):
            began = self._elapsed()
            if round and began + longest > until:
                self._say(f"{round} rounds of {count}: there is no time for more")
                return
            yield round
            longest = max(longest, self._elapsed() - began)

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _measure(self, who: Contestant, round: int, act: Callable[[], M]) -> Row[M] | None:
        """Measure, and drop the contestant from this round only if it fails."""
        load = os.getloadavg()[0]
        try:
            return Row(who.name, round, load, act())
        except StalledError as error:
            self._say(f"{who.name} failed: {error}")
            return None

    def _say(self, text: str) -> None:
        print(f"{self._elapsed():6.0f} s  load {os.getloadavg()[0]:4.1f}  {text}", flush=True)


def _shuffled(contestants: Iterable[Contestant], seed: int) -> list[Contestant]:
    """Return contestants in an order that differs by round, so that none always follows the same, but not by run."""
    return random.Random(seed).sample(ordered := list(contestants), len(ordered))


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    pictures = PUBLISHED if options.publish else OUT
    if options.reads:
        reads(OUT, rounds=options.rounds or 5)
        return 0
    if options.relay:
        rounds = options.rounds or (2 if options.quick else 5)
        relay(OUT, rounds=rounds, quick=options.quick, only=options.only, picture=pictures / "relay.png")
        return 0
    programme = chosen(options)
    if os.getloadavg()[0] > BUSY:
        print(f"bench: the load average is {os.getloadavg()[0]:.1f}: something else is at work on this machine")
    make_environment()
    with Stage() as stage:
        run = Run(stage, programme)
        try:
            if options.soak:
                run.soak(options.events or EVENTS)
            else:
                run.drains()
                run.latencies()
                run.others()
        finally:
            run.results.write(OUT / ("soak.json" if options.soak else "bench.json"))
    print()
    print(report(run.results, programme), end="")
    if not options.soak:
        draw(run.results, programme, pictures / "bench.png")
    return 0


def chosen(options: argparse.Namespace) -> Programme:
    programme = QUICK if options.quick else FULL
    if options.events:
        programme = replace(programme, events=options.events, queued=options.events)
    if options.rounds:
        programme = replace(programme, rounds=options.rounds, latency_rounds=options.rounds)
    if options.seconds:
        programme = replace(programme, seconds=options.seconds)
    if options.only:
        drains = {who: share for who, share in programme.drains.items() if who.name in options.only}
        timed = [who for who in programme.timed if who.name in options.only]
        programme = replace(programme, drains=drains, timed=timed)
    return programme


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer contestants, events and rounds")
    parser.add_argument("--soak", action="store_true", help="ten million events through one worker, and nothing else")
    parser.add_argument("--reads", action="store_true", help="reads through the caches, and nothing else")
    parser.add_argument("--relay", action="store_true", help="the relay on three databases, and nothing else")
    parser.add_argument("--only", action="append", metavar="NAME", help="only these contestants")
    parser.add_argument("--events", type=int, help="in the queue of the fast")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of publishing at each rate")
    parser.add_argument("--publish", action="store_true", help="write the picture into conf/pictures/")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
