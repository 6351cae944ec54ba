"""`dev faults audited`: the ledger, with an auditor and a reader beside it, and what each of them found side by side.

Shops, workers and the schedule of faults are those of `dev faults`. `invalidator audit` checks a tenth of the products,
and a reader reads them through LookAsideCache(audit=0.01). The shops see for themselves when old copies are gone: no
verdict may contradict them. Exit status 0 if the ledger is green and everything agrees.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.faults import sabotage as of_workers
from tests.faults.audited import sabotage as of_auditors
from tests.faults.audited.account import table
from tests.faults.audited.stage import AuditedStage
from tests.faults.production import Production
from tests.faults.run import ROOT, played, show
from tests.faults.schedule import FULL_EVENTS


def main(arguments: Sequence[str] | None = None) -> int:
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # it reports at length that the broker is away
    options = parse(arguments)
    out = options.out or ROOT / ".dev" / "faults" / f"audited-{options.seed}"
    workers, auditor = [options.sabotage if options.sabotage in of.KINDS else "" for of in (of_workers, of_auditors)]
    production = Production(options.seed, options.events, sabotage=workers)
    with tempfile.TemporaryDirectory(prefix="invalidator-faults-") as scratch:
        stage = AuditedStage(production, out, Path(scratch), sabotage=auditor)
        ledger = asyncio.run(played(stage, out))
    (out / "audited.json").write_text(stage.account.as_json())
    show({"invalidator": ledger})
    print(table(stage.account), *stage.lines, sep="\n")
    print("agreement", "green" if stage.account.agrees else "RED")
    return 0 if ledger.passes and stage.account.agrees else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev faults audited", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the schedule")
    parser.add_argument("--events", type=int, default=FULL_EVENTS)
    parser.add_argument("--out", type=Path, help="folder for account, ledger and logs (.dev/faults/audited-N)")
    kinds = sorted({**of_workers.KINDS, **of_auditors.KINDS})
    parser.add_argument("--sabotage", choices=kinds, default="", help="a worker or auditor with a fault built in")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
