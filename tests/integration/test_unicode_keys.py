"""Keys that clients store as UTF-8, from an event or by hand to the nodes, by way of debts and announcements."""

import asyncio
import json
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from invalidator_cli.main import main
from pymemcache.client.hash import HashClient

from tests.integration.aftermath import Trial
from tests.integration.conftest import MemcachedFactory, ProxyFactory
from tests.integration.shop import as_toml, eventually, publishing, settings_for, working

IDS = ["é0", "käse", "ключ", "商品:17", "🧀", "\u00a0", "plain"]
KEYS = [f"product:{id}" for id in IDS]


async def test_a_key_that_hash_client_stores_as_utf8_is_evicted_on_its_owner(
    vhost: str, memcached: MemcachedFactory
) -> None:
    nodes = [memcached() for _ in range(3)]
    ids = [f"{id}{number}" for id in IDS for number in range(30)]
    settings = settings_for(vhost, {node.address: node.address for node in nodes}, memcached={"evict_on": "owner"})
    with closing(HashClient([node.address for node in nodes], allow_unicode_keys=True)) as client:
        for id in ids:
            assert client.set(f"product:{id}", b"old")
        async with working(settings), publishing(vhost) as shop:
            for id in ids:
                await shop.raw(json.dumps({"type": "product_updated", "id": id}).encode())
            await eventually(lambda: client.get_many([f"product:{id}" for id in ids]) == {})


async def test_such_keys_are_parked_and_drained(vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory) -> None:
    node = memcached()
    gate = await proxy(node.address)
    await gate.refuse()
    shop = Trial(settings_for(vhost, {"c1": gate.address}), [node])
    async with shop.working():
        shop.fill(*IDS)
        await shop.publish(*IDS)
        await shop.is_parked("c1")
        await gate.start()


@pytest.mark.parametrize("how", [["--direct"], ["--wait"]], ids=str)
async def test_such_keys_are_evicted_by_hand(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path, how: list[str]
) -> None:
    node = memcached()
    settings = settings_for(vhost, [node])
    file = tmp_path / "invalidator.toml"
    file.write_text(as_toml(settings))
    file.chmod(0o600)
    for key in KEYS:
        node.set(key, b"old")

    def run(*arguments: str) -> str:
        environ = {"INVALIDATOR_MANAGEMENT__EXPECT": '["eu"]'}
        result = CliRunner().invoke(main, [*arguments, "--config", str(file)], env=environ)
        assert 0 == result.exit_code, result.output
        return result.stdout

    async with working(settings):
        assert "product:é0" in await asyncio.to_thread(run, "explain", "--key", "product:é0")
        await asyncio.to_thread(run, "evict", *how, *KEYS)
        await eventually(lambda: not any(node.get(key) for key in KEYS))
