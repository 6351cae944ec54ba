"""Keys that clients store as UTF-8: evicted by event and by hand, by way of debts and announcements, and cached."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from invalidator_cli.main import main
from pymemcache.client.hash import HashClient

from invalidator.app import AsyncLookAsideCache, LookAsideCache, NearCache
from invalidator.errors import ConfigurationError
from tests.integration.aftermath import Trial
from tests.integration.conftest import MemcachedFactory, ProxyFactory
from tests.integration.shop import as_toml, eventually, publishing, settings_for, working
from tests.integration.test_lookaside import commands
from tests.logs import capture_logs
from tests.servers import Memcached

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


#: Reads keys through a cache, with what `load` returns for all of them.
Read = Callable[[list[str], Any], dict[str, Any]]


@pytest.fixture
def nodes(memcached: MemcachedFactory) -> list[Memcached]:
    return [memcached() for _ in range(3)]


@pytest.fixture(params=["threads", "asyncio"])
def read(request: pytest.FixtureRequest, nodes: list[Memcached]) -> Iterator[Read]:
    """Yield a function that reads keys through one of the twins: the first alone, the others at once."""
    addresses = [node.address for node in nodes]
    if request.param == "threads":
        with closing(LookAsideCache(addresses, prefix="ü:")) as cache:

            def read(keys: list[str], value: Any) -> dict[str, Any]:
                first = cache.get_or_load(keys[0], lambda: value, ttl=60)
                return {keys[0]: first} | cache.get_many_or_load(keys, lambda some: dict.fromkeys(some, value), ttl=60)

            yield read
        return
    twin = AsyncLookAsideCache(addresses, prefix="ü:")

    async def read_async(keys: list[str], value: Any) -> dict[str, Any]:
        async def one() -> Any:
            return value

        async def many(some: list[str]) -> dict[str, Any]:
            return dict.fromkeys(some, value)

        first = await twin.get_or_load(keys[0], one, ttl=60)
        return {keys[0]: first} | await twin.get_many_or_load(keys, many, ttl=60)

    async def end() -> None:
        twin.close()

    with asyncio.Runner() as runner:
        yield lambda keys, value: runner.run(read_async(keys, value))
        runner.run(end())


def test_such_keys_are_filled_and_hit_where_hash_client_reads_them(nodes: list[Memcached], read: Read) -> None:
    assert dict.fromkeys(KEYS, "new") == read(KEYS, "new")
    assert dict.fromkeys(KEYS, "new") == read(KEYS, "not loaded")
    addresses = [node.address for node in nodes]
    with closing(HashClient(addresses, allow_unicode_keys=True, key_prefix="ü:".encode())) as client:
        assert dict.fromkeys(KEYS, b'"new"') == {key: client.get(key) for key in KEYS}


@pytest.mark.parametrize("key", ["é" * 124, "product:\ud83d", "product:\u0085", "a b"])
def test_a_key_that_no_worker_could_evict_is_not_cached(nodes: list[Memcached], read: Read, key: str) -> None:
    with capture_logs() as logs:
        assert [{key: 1}, {key: 2}] == [read([key], 1), read([key], 2)]
    assert ["not a valid memcached key; bypassing the cache"] == [log["event"] for log in logs]
    assert 0 == sum(commands(node) for node in nodes)


def test_the_250_bytes_of_a_key_are_counted_in_utf8_with_the_prefix(nodes: list[Memcached], read: Read) -> None:
    key = "é" * 123 + "x"
    assert [{key: 1}, {key: 1}] == [read([key], 1), read([key], 2)]


@pytest.mark.parametrize("cache", [LookAsideCache, AsyncLookAsideCache])
def test_a_prefix_that_no_key_may_begin_with_is_refused(cache: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match="holds a space or a control character"):
        cache(["127.0.0.1:11211"], prefix="x\r\nflush_all\r\n")


async def test_such_keys_are_evicted_from_memcached_and_from_near_caches(
    vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    settings = settings_for(vhost, [node])
    source = dict.fromkeys(KEYS, "old")
    with (
        closing(LookAsideCache([node.address])) as shared,
        NearCache(shared, vhost, cluster="eu", max_age=3600) as cache,
    ):

        def read() -> set[str]:
            return {cache.get_or_load(key, partial(source.__getitem__, key), ttl=3600) for key in KEYS}

        async with working(settings), publishing(vhost) as shop:
            await eventually(lambda: read() == {"old"} and len(cache) == len(KEYS))
            source.update(dict.fromkeys(KEYS, "new"))
            for id in IDS:
                await shop.raw(json.dumps({"type": "product_updated", "id": id}).encode())
            await eventually(lambda: read() == {"new"} and len(cache) == len(KEYS))
            assert dict.fromkeys(KEYS, b'"new"') == {key: node.get(key) for key in KEYS}
