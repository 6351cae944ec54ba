"""`invalidator audit` that also writes down each of its verdicts, with the time of its look at the nodes.

python -m tests.faults.audited.auditor TRUTH VERDICTS [SABOTAGE] -- audit --config FILE
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from invalidator_cli.main import main

from invalidator.audit import sandwich as sandwiches
from invalidator.audit.tracker import Check, Tracker
from invalidator.audit.verdict import Verdict
from tests.faults.audited import sabotage, truth

SOURCE = "tests.faults.audited.truth:source"


class Judgement(NamedTuple):
    """A verdict, as it is written down. Times are seconds of the monotonic clock, which all processes share."""

    product: int
    #: Seconds after the change.
    delay: float
    verdict: str
    #: The nodes were asked after the one and before the other.
    asked: float
    answered: float
    #: The labels of nodes with a value that is called stale.
    stale: list[str]


class Looks:
    """The last look at the nodes for each key: its beginning, its end, and the nodes whose value looked stale."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, float, list[str]]] = {}
        self._sandwich = sandwiches.sandwich
        sandwiches.sandwich = self._look  # type: ignore[assignment]

    async def _look(self, nodes: Any, key: str, *source: Any) -> dict[str, sandwiches.Judged]:
        asked = time.monotonic()
        found = await self._sandwich(nodes, key, *source)
        stale = [label for label, one in found.items() if one.sighting]
        self._last[key] = asked, time.monotonic(), stale
        return found

    def take(self, key: str) -> tuple[float, float, list[str]] | None:
        return self._last.pop(key, None)


def write_down(write: Callable[[str], object]) -> None:
    """Write a line for each verdict that came of a look at the nodes."""
    looks, verdict = Looks(), Tracker._verdict

    async def written(self: Tracker, check: Check, delay: float) -> Verdict:
        found = await verdict(self, check, delay)
        if look := looks.take(check.key):
            asked, answered, stale = look
            stale = stale if found.is_stale else []
            line = Judgement(truth.product_of(check.key), delay, found.value, asked, answered, stale)
            write(json.dumps(line) + "\n")
        return found

    Tracker._verdict = written  # type: ignore[method-assign]


if __name__ == "__main__":
    _, facts, verdicts, *kind = sys.argv[: sys.argv.index("--")]
    truth.use(Path(facts))
    for name in kind:
        sabotage.KINDS[name]()
    write_down(Path(verdicts).open("w", buffering=1).write)  # noqa: SIM115  it is open as long as the process runs
    sys.argv = ["invalidator", *sys.argv[sys.argv.index("--") + 1 :]]
    main()
