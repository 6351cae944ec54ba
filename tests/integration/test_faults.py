"""A short ledger: a few faults of each kind, and every event accounted for. `./dev faults` is the long version."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import require
from tests.servers import memcached_is_installed, rabbitmq_is_installed

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def servers() -> None:
    require("rabbitmq", installed=rabbitmq_is_installed())
    require("memcached", installed=memcached_is_installed())


def play(folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Run the schedule; return its exit status and its ledger."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "faults" / "run.py", "--out", folder, *options],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    return done.returncode, json.loads((folder / "ledger.json").read_text())


@pytest.mark.timeout(240)
def test_a_short_schedule_of_every_fault_loses_nothing_and_leaves_nothing_stale(tmp_path: Path) -> None:
    status, ledger = play(tmp_path, "--seed", "1", "--events", "3000")
    assert [] == ledger["surprises"]
    assert (0, 0, 0, 0) == tuple(ledger[name] for name in ("lost", "unexpected", "stale_keys", "parked"))
    assert 3000 == ledger["evicted"]
    assert 0 == status
    faults = json.loads((tmp_path / "timeline.json").read_text())["faults"]
    assert {"kill the broker", "freeze a node", "kill a worker", "partition a node"} < {each["kind"] for each in faults}


@pytest.mark.timeout(240)
def test_the_ledger_turns_red_when_debts_are_dropped(tmp_path: Path) -> None:
    status, ledger = play(tmp_path, "--seed", "2", "--events", "1500", "--sabotage", "drop-debt")
    assert ledger["lost"] > 0
    assert 1 == status


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("sabotage", ["ack-before-fence", "confirm-next", "drop-debt"])
def test_the_ledger_sees_a_worker_that_is(sabotage: str, tmp_path: Path) -> None:
    status, ledger = play(tmp_path, "--seed", "2", "--events", "3000", "--sabotage", sabotage)
    assert ledger["lost"] > 0
    assert 1 == status


@pytest.mark.long
@pytest.mark.timeout(240)
def test_the_stock_way_loses_events_in_the_same_schedule(tmp_path: Path) -> None:
    status, _ = play(tmp_path, "--seed", "1", "--events", "3000", "--compare")
    assert 0 == status
    assert json.loads((tmp_path / "stock" / "ledger.json").read_text())["lost"] > 0
