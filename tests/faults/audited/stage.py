"""The stage of the ledger, with an auditor and a reader beside its shops.

shops ──> broker ──┬─> workers ──> wires ──> memcached nodes <── reader (LookAsideCache)
  └──> truth       └─> auditor ───────────────────┘
"""

import json
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

from invalidator.audit.account import SavedAccount
from invalidator.audit.summary import DAY, Line, summary_of
from invalidator.audit.verdict import STALE
from tests.faults.audited.account import Account, Seen, account
from tests.faults.audited.auditor import SOURCE, Judgement
from tests.faults.audited.readers import Compared, ReaderPart
from tests.faults.audited.turns import Stay
from tests.faults.cast import spawn
from tests.faults.production import Production, configure
from tests.faults.remains import Remains
from tests.faults.shop import Part
from tests.faults.stage import Stage

#: The share of products that is checked and read, and of hits that are compared.
SHARE, HITS = 0.1, 0.01
#: Seconds after a change at which it is checked.
DELAYS = [0.1, 1.0, 2.0, 10.0]
AUDIT = """
[audit]
source = {source}
account = {account}
share = {share}
delays = {delays}
reads = 2000
commands = 20000
repair = false
"""


class AuditedStage(Stage):
    """A stage whose auditor and reader are judged by what the shops see."""

    account: Account
    #: The auditor's own account, as `invalidator audit report` prints it.
    lines: list[Line]

    def __init__(self, production: Production, out: Path, scratch: Path, *, sabotage: str = "") -> None:
        """Take the name of a fault to build into the auditor, if there is to be one."""
        super().__init__(production, out, scratch)
        self._sabotage = [sabotage] if sabotage else []
        self._truth = scratch / "truth"
        self._verdicts = out / "verdicts"
        self._saved = scratch / "account.sqlite"
        self._read = scratch / "reader.json"

    def _part(self, number: int) -> Part:
        return replace(super()._part(number), truth=str(self._truth), share=SHARE)

    @asynccontextmanager
    async def set_up(self) -> AsyncIterator[Self]:
        async with super().set_up():
            self._auditor = await self._audit()
            self._reader = await self._start_reader()
            yield self

    async def _audit(self) -> Process:
        folder = self._scratch / "auditor"
        folder.mkdir()
        file = configure(folder, self.broker.url(), {label: node.address for label, node in self.nodes.items()})
        values = {"source": SOURCE, "account": str(self._saved), "share": SHARE, "delays": DELAYS}
        with file.open("a") as opened:
            opened.write(AUDIT.format(**{name: json.dumps(value) for name, value in values.items()}))
        own = [str(self._truth), str(self._verdicts), *self._sabotage]
        command = sys.executable, "-m", "tests.faults.audited.auditor", *own, "--", "audit", "--config", str(file)
        with (self._out / "auditor.log").open("wb") as log:
            return await spawn(*command, stdout=log, stderr=log)

    async def _start_reader(self) -> Process:
        part = ReaderPart(
            seed=self.production.seed,
            truth=str(self._truth),
            file=str(self._read),
            nodes={label: node.address for label, node in self.nodes.items()},
            products=self.size.products,
            share=SHARE,
            audit=HITS,
        )
        command = sys.executable, "-m", "tests.faults.audited.readers", json.dumps(asdict(part))
        with (self._out / "reader.log").open("wb") as log:
            return await spawn(*command, stdin=PIPE, stdout=log, stderr=log)

    def check_players(self) -> None:
        super().check_players()
        for name, process in {"auditor": self._auditor, "reader": self._reader}.items():
            if process.returncode is not None:
                raise RuntimeError(f"the {name} has ended with {process.returncode}: see {name}.log")

    async def close(self) -> Remains:
        assert self._reader.stdin
        self._reader.stdin.write(b"end\n")
        self._auditor.terminate()
        ended = await self._reader.wait(), await self._auditor.wait()
        found = await super().close()
        if ended != (0, 0):
            raise RuntimeError(f"reader and auditor ended with {ended}: see their logs")
        self.account = account(self._seen())
        self.lines = summary_of(self._saved, now=time.time(), seconds=DAY)
        return found

    def _seen(self) -> Seen:
        books = [json.loads(Path(shop.part.file).read_text()) for shop in self.shops]
        reader: dict[str, Any] = json.loads(self._read.read_text())
        return Seen(
            stays=[Stay(*stay) for shop in books for stay in shop["stays"]],
            judgements=[Judgement(*json.loads(line)) for line in self._verdicts.read_text().splitlines()],
            counted=self._counted(),
            nodes=list(self.nodes),
            reads=[tuple(each) for each in reader["reads"]],
            stale_reads=[tuple(each) for each in reader["stale"]],
            compared=[Compared(*each) for each in reader["compared"]],
            faults=[(happened.began, happened.ended) for happened in self.happened],
        )

    def _counted(self) -> dict[float, int]:
        """Return the stale values that the auditor has counted itself, by delay."""
        with closing(SavedAccount(self._saved)) as saved:
            minutes = saved.minutes(0)
        return {
            delay: sum(one.counts.get(verdict, 0) for one in minutes if one.delay == delay for verdict in STALE)
            for delay in DELAYS
        }
