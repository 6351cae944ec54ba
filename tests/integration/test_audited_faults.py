"""Short ledgers with an auditor beside them: what both see is the same. `./dev faults audited` is the long version."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import require
from tests.servers import memcached_is_installed, rabbitmq_is_installed

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def servers() -> None:
    require("rabbitmq", installed=rabbitmq_is_installed())
    require("memcached", installed=memcached_is_installed())


def play(folder: Path, *options: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Run the schedule; return its exit status, its account and its ledger."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "faults" / "audited" / "run.py", "--out", folder, *options],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    account, ledger = (json.loads((folder / f"{name}.json").read_text()) for name in ("audited", "ledger"))
    return done.returncode, account, ledger


def total(account: dict[str, Any], column: str) -> int:
    return sum(row[column] for row in account["rows"])


def test_auditor_reader_and_ledger_agree_under_every_fault(tmp_path: Path) -> None:
    status, account, _ = play(tmp_path, "--seed", "1", "--events", "3000")
    assert [] == account["disagreements"]
    assert 0 == status
    assert total(account, "both") > 0, "the faults make some evictions late, and both see it"
    assert account["compared"] > 0


def test_keys_that_the_workers_forget_are_stale_for_all_of_them(tmp_path: Path) -> None:
    status, account, ledger = play(tmp_path, "--seed", "2", "--events", "1500", "--sabotage", "drop-some")
    assert [] == account["disagreements"]
    assert ledger["stale_keys"] > 0
    assert [True, True, True] == [row["both"] > 0 for row in account["rows"] if row["delay"] <= 2]
    assert account["reads"]["stale"] > 0
    assert 1 == status


@pytest.mark.parametrize(("sabotage", "column"), [("see-nothing", "misses"), ("cry-wolf", "false_alarms")])
def test_the_account_turns_red_with_an_auditor_that(sabotage: str, column: str, tmp_path: Path) -> None:
    status, account, ledger = play(tmp_path, "--seed", "2", "--events", "1500", "--sabotage", sabotage)
    assert total(account, column) > 0
    assert [] != account["disagreements"]
    assert 0 == ledger["lost"]
    assert 1 == status
