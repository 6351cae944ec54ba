"""`dev mutants`: break the product on purpose and list the changes that no test notices.

It takes up where the last run ended. Exit status 0 if every mutant that was tried is dead or has a reason, else 1.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import cover, trial
from .mutation import mutants

#: The modules whose guards keep the promises.
GUARDS = (
    *("worker/pipeline", "worker/planner", "worker/deferred", "worker/drainer"),
    *("memcached/node", "memcached/connection", "memcached/wire", "memcached/ring"),
    *("broker/consume/subscription", "broker/wire/tap"),
    *("app/cache/reader", "app/cache/freshness", "app/publish/outbox"),
    *("app/near/cache", "app/near/store", "app/near/sequence", "app/near/listener"),
    *("relay/claims", "relay/database", "relay/drain", "relay/relay", "relay/notifications"),
)
FOLDER = cover.ROOT / ".dev" / "mutants"
REASONS = Path(__file__).with_name("reasons.toml")
DEAD = ("killed", "timeout")


def main() -> int:
    options = _options()
    files = [_file(name) for name in options.modules or GUARDS]
    with _measured(options) as covered:
        trial.preload()
        run = Run(covered, until=time.monotonic() + options.minutes * 60, jobs=options.jobs)
        for file in files:
            run.try_all(file, again=options.again)
    return report(files)


@contextmanager
def _measured(options: argparse.Namespace) -> Iterator[cover.Cover]:
    """Yield the tests that reach each line: those of the last run, or of a run now."""
    if not options.only:
        if options.measure or not cover.is_current(FOLDER):
            cover.measure(FOLDER, ["tests", *options.also])
        yield cover.Cover(FOLDER)
        return
    with tempfile.TemporaryDirectory() as folder:
        cover.measure(Path(folder), options.only)
        yield cover.Cover(Path(folder))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev mutants", description=__doc__)
    parser.add_argument("modules", nargs="*", help="files of the product, by default those that keep its promises")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no further mutant after this time")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("--again", action="store_true", help="try again what survived")
    parser.add_argument("--measure", action="store_true", help="find out anew which tests reach which lines")
    parser.add_argument("--also", action="append", default=[], metavar="FILE", help="tests besides the unit tests")
    parser.add_argument("--only", action="append", metavar="FILE", help="these tests alone, measured anew: seconds")
    return parser.parse_args()


def _file(name: str) -> Path:
    return cover.ROOT / "invalidator" / f"{name.removeprefix('invalidator/').removesuffix('.py')}.py"


@dataclass
class Results:
    """The verdicts on a file's mutants, kept from run to run while the file stays the same."""

    file: Path
    verdicts: dict[str, str]

    @classmethod
    def of(cls, file: Path) -> "Results":
        kept = _kept(file)
        known = json.loads(kept.read_text()) if kept.exists() else {}
        return cls(file, known.get(_hash(file), {}))

    def write(self) -> None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        _kept(self.file).write_text(json.dumps({_hash(self.file): self.verdicts}, indent=1))


def _kept(file: Path) -> Path:
    return FOLDER / f"{'.'.join(file.relative_to(cover.ROOT).with_suffix('').parts)}.json"


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


class Run:
    """Trials side by side until the time is over."""

    def __init__(self, covered: cover.Cover, *, until: float, jobs: int) -> None:
        self._cover = covered
        self._until = until
        self._jobs = jobs

    def try_all(self, file: Path, *, again: bool) -> None:
        """Try the mutants of a file that have no verdict yet."""
        results, module = Results.of(file), ".".join(file.relative_to(cover.ROOT).with_suffix("").parts)
        known = {name for name, verdict in results.verdicts.items() if verdict in DEAD or not again}
        waiting = [mutant for mutant in mutants(file.read_text()) if mutant.name not in known]
        if not waiting or time.monotonic() > self._until:
            return
        pace = self._control(module, self._cover.tests(file))
        running: dict[str, trial.Trial] = {}
        while waiting or running:
            while waiting and len(running) < self._jobs and time.monotonic() < self._until:
                mutant = waiting.pop(0)
                tests = self._cover.tests(file, mutant.lines)
                if tests:
                    running[mutant.name] = trial.start(module, mutant.source, tests, seconds=5 + 4 * pace)
                else:
                    results.verdicts[mutant.name] = "not reached"
            for name, verdict in list(_ended(running)):
                results.verdicts[name] = verdict
                results.write()
                if verdict not in DEAD:
                    print(f"{verdict}: {file.relative_to(cover.ROOT)}: {name}", flush=True)
            if not running and time.monotonic() > self._until:
                break
            time.sleep(0.01)
        results.write()

    def _control(self, module: str, tests: list[str]) -> float:
        """Run the tests without any change. Return the seconds they take, or exit the program if they fail."""
        if not tests:  # pytest would run all there are
            return 0.0
        began = time.monotonic()
        control = trial.start(module, None, tests, seconds=600)
        while not (verdict := control.verdict()):
            time.sleep(0.01)
        if verdict != "survived":
            sys.exit(f"the tests of {module} fail without a mutant ({verdict}): dev mutants --measure")
        return time.monotonic() - began


def _ended(running: dict[str, trial.Trial]) -> Iterator[tuple[str, str]]:
    for name, each in list(running.items()):
        if verdict := each.verdict():
            del running[name]
            yield name, verdict


def report(files: list[Path]) -> int:
    """Print the score of each file and the survivors; return the exit status."""
    reasons, missing = _reasons(), 0
    for file in files:
        name, verdicts = str(file.relative_to(cover.ROOT)), Results.of(file).verdicts
        known = [mutant.name for mutant in mutants(file.read_text())]
        survivors = [each for each in known if verdicts.get(each, "dead") not in (*DEAD, "dead")]
        without = [each for each in survivors if each not in reasons.get(name, {})]
        missing += len(without)
        counts = Counter(verdicts[each] for each in known if each in verdicts)
        dead, tried = sum(counts[each] for each in DEAD), counts.total()
        print(
            f"{name}: {dead} of {tried} dead, {len(survivors) - len(without)} with a reason, {len(without)} without;"
            f" {len(known) - tried} to try"
        )
        for each in without:
            print(f"    {verdicts[each]}: {each}")
        for each in sorted(set(reasons.get(name, {})) - set(known)):
            print(f"    no such mutant, but a reason: {each}")
    return 1 if missing else 0


def _reasons() -> dict[str, dict[str, str]]:
    """Return file -> mutant -> why nobody can see it."""
    return tomllib.loads(REASONS.read_text()) if REASONS.exists() else {}


if __name__ == "__main__":
    sys.exit(main())
