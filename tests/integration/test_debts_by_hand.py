"""Debts handled by an operator: retiring a node that is gone, flushing nodes after a gap."""

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner
from invalidator_cli.main import main

from invalidator.broker.topology import Topology
from invalidator.settings import Settings
from tests.integration.conftest import MemcachedFactory
from tests.integration.shop import as_toml, eventually, publishing, settings_for, working


@pytest.fixture
def run(tmp_path: Path) -> "Run":
    return Run(tmp_path / "invalidator.toml")


class Run:
    """Runs a command with these settings; returns its exit code and standard output."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self, settings: Settings, *arguments: str) -> tuple[int, str]:
        self._file.write_text(as_toml(settings))
        self._file.chmod(0o600)
        result = CliRunner().invoke(main, [*arguments, "--config", str(self._file)])
        return result.exit_code, result.stdout


async def in_thread(run: Run, settings: Settings, *arguments: str) -> tuple[int, str]:
    return await asyncio.to_thread(run, settings, *arguments)


async def test_a_gone_nodes_debt_is_settled_on_todays_nodes_and_its_queue_deleted(
    vhost: str, memcached: MemcachedFactory, run: Run
) -> None:
    stays, goes = memcached(), memcached()
    before = settings_for(vhost, {"stays": stays.address, "goes": goes.address}, memcached={"deadline": 0.2})
    after = settings_for(vhost, {"stays": stays.address})
    queue = Topology.of(before).parked("goes")
    async with publishing(vhost) as shop:
        async with working(before):
            goes.kill()
            await shop.update(*range(50))
            await eventually(lambda: stays.get("product:49") is None)
            await shop.settled_but(Topology.of(before), queue)
        stays.set("product:7", b"old, and served by a client that moved the key here")
        code, said = await in_thread(run, after, "topology", "retire", "goes")
        assert (code, f"{queue} is deleted; 100 keys it held are evicted on the present nodes\n") == (0, said)
        assert stays.get("product:7") is None
        code, said = await in_thread(run, after, "topology", "retire", "goes")
        assert (code, f"{queue} is not there: nothing to settle\n") == (0, said)


async def test_a_gone_nodes_debt_stays_parked_while_todays_nodes_do_not_confirm(
    vhost: str, memcached: MemcachedFactory, run: Run
) -> None:
    stays, goes = memcached(), memcached()
    before = settings_for(vhost, {"stays": stays.address, "goes": goes.address}, memcached={"deadline": 0.2})
    after = settings_for(vhost, {"stays": stays.address}, memcached={"deadline": 0.2})
    queue = Topology.of(before).parked("goes")
    async with publishing(vhost) as shop:
        async with working(before):
            goes.kill()
            await shop.update(1)
            await shop.settled_but(Topology.of(before), queue)
        stays.kill()
        assert (await in_thread(run, after, "topology", "retire", "goes"))[0] == 75
        assert await shop.ready(queue) == 1


async def test_flush_empties_the_nodes(memcached: MemcachedFactory, run: Run) -> None:
    nodes = [memcached(), memcached()]
    for node in nodes:
        node.set("product:1", b"old")
    settings = settings_for("amqp://guest@127.0.0.1:1/", nodes)
    code, said = await in_thread(run, settings, "flush", "--pause", "0", "--yes")
    assert code == 0
    assert said.count("flushed") == 2
    assert [node.get("product:1") for node in nodes] == [None, None]
