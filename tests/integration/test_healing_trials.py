"""Two of the healing trials at once, at a low rate. `./dev faults healing` plays all of them, ten times each."""

import asyncio
from pathlib import Path

import pytest

from tests.faults.healing.account import Row
from tests.faults.healing.run import played
from tests.faults.healing.stage import Stage
from tests.integration.conftest import MemcachedFactory
from tests.servers import Broker

RATE = 200.0


async def trial(name: str, broker: Broker, memcached: MemcachedFactory, folder: Path, *, sabotage: str = "") -> Row:
    nodes = [memcached() for _ in range(4)]
    stage = Stage([broker], nodes[:2], nodes[2:], folder, RATE, sabotage)
    return await played(stage, name, 1, seed=1)


def faults(row: Row) -> list[str]:
    """Return the faults of a trial, except for its time, which this machine may not have."""
    return [fault for fault in row.faults if "not over within" not in fault]


@pytest.mark.timeout(120)
async def test_a_queue_that_was_purged_or_expired_heals_without_a_stale_key_or_a_flush(
    broker: Broker, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    rows = await asyncio.gather(*(trial(name, broker, memcached, tmp_path) for name in ("purged", "away")))
    assert [[], []] == [faults(row) for row in rows]
    assert all(row.seen.waited is not None for row in rows)


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("sabotage", "name", "fault"),
    [
        ("position-before-ack", "purged", "stale keys"),
        ("wrong-offset", "deleted", "stale keys"),
        ("healed-too-early", "deleted", "keys were stale when it was healed"),
    ],
)
async def test_the_trials_see_a_worker_with(
    sabotage: str, name: str, fault: str, broker: Broker, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    row = await trial(name, broker, memcached, tmp_path, sabotage=sabotage)
    assert any(fault in each for each in row.faults), row.faults
