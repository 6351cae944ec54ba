"""A short ledger of the follower: each fault once or twice. `./dev faults followed` is the long version."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.followed.account import FAULTS
from tests.integration.conftest import require
from tests.servers import memcached_is_installed, postgres_is_installed, rabbitmq_is_installed

ROOT = Path(__file__).parents[2]
NO_FAULTS = dict.fromkeys((*FAULTS, "status"), 0)


@pytest.fixture(autouse=True)
def servers() -> None:
    require("rabbitmq", installed=rabbitmq_is_installed())
    require("memcached", installed=memcached_is_installed())
    require("postgresql", installed=postgres_is_installed())


def play(folder: Path, *options: str) -> dict[str, int]:
    """Run writers and faults; return the ledger, with the exit status."""
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "tests" / "faults" / "followed" / "run.py",
            "--out",
            folder,
            "--changes",
            "3000",
            *options,
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    ledger: dict[str, int] = json.loads((folder / "ledger.json").read_text())
    return ledger | {"status": done.returncode}


@pytest.mark.timeout(240)
def test_every_committed_change_is_published_and_evicted_and_nothing_else_is(tmp_path: Path) -> None:
    ledger = play(tmp_path)
    assert NO_FAULTS == {name: ledger[name] for name in NO_FAULTS}
    assert ledger["committed"] >= 3000
    assert ledger["by_django"] > 0
    assert ledger["rolled_back"] > 0
    assert ledger["repeated"] > 0  # by a follower that was killed: the faults did happen


@pytest.mark.long
@pytest.mark.timeout(400)
def test_eight_readers_find_no_old_value_while_the_standby_stalls_again_and_again(tmp_path: Path) -> None:
    ledger = play(tmp_path, "--stalls", "--changes", "10000")
    assert NO_FAULTS == {name: ledger[name] for name in NO_FAULTS}
    assert ledger["committed"] >= 10_000


@pytest.mark.long
@pytest.mark.timeout(400)
def test_eight_readers_find_old_values_without_the_gate(tmp_path: Path) -> None:
    ledger = play(tmp_path, "--stalls", "--changes", "10000", "--sabotage", "no-gate")
    assert ledger["stale"] > 0


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("sabotage", "column"),
    [("move-before-confirm", "lost"), ("confirm-keepalives", "lost"), ("no-gate", "early")],
)
def test_the_ledger_sees_a_follower_that_is(sabotage: str, column: str, tmp_path: Path) -> None:
    ledger = play(tmp_path, "--sabotage", sabotage)
    assert ledger[column] > 0
    assert 1 == ledger["status"]
