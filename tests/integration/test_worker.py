"""The worker on real RabbitMQ and memcached: events in, keys gone; poison aside; nodes away and back."""

import asyncio
import json
import random

import msgspec
import pytest

from invalidator.broker.topology import Topology
from invalidator.errors import ConfigurationError, RefusedError
from invalidator.runtime import metrics
from invalidator.settings import LimitSettings, Secret
from invalidator.worker.worker import Worker
from tests.integration.conftest import MemcachedFactory, ProxyFactory
from tests.integration.shop import Publishing, changed, eventually, publishing, settings_for, working
from tests.servers import Broker, Memcached

pytestmark = pytest.mark.usefixtures("intake")


def fill(nodes: list[Memcached], *keys: str) -> None:
    for node in nodes:
        for key in keys:
            node.set(key, b"old")


def gone(nodes: list[Memcached], *keys: str) -> bool:
    return not any(node.get(key) for node in nodes for key in keys)


async def test_an_update_evicts_every_key_of_its_rule_on_every_node_and_is_acked(
    vhost: str, memcached: MemcachedFactory
) -> None:
    nodes = [memcached(), memcached(), memcached()]
    settings = settings_for(vhost, nodes)
    async with working(settings), publishing(vhost) as shop:
        fill(nodes, "product:7", "product:7:reviews", "product:8")
        await shop.update(7)
        await eventually(lambda: gone(nodes, "product:7", "product:7:reviews"))
        assert [node.get("product:8") for node in nodes] == [b"old"] * 3
        await shop.settled(Topology.of(settings))
    async with publishing(vhost) as shop:  # what was not acknowledged would be back by now
        assert await shop.ready("invalidator.eu") == 0


async def test_one_event_fans_out_to_two_clusters(vhost: str, memcached: MemcachedFactory) -> None:
    eu, us = [memcached(), memcached()], [memcached()]
    async with working(settings_for(vhost, eu)), working(settings_for(vhost, us, cluster="us")):
        fill(eu + us, "product:7")
        async with publishing(vhost) as shop:
            await shop.update(7)
            await eventually(lambda: gone(eu + us, "product:7"))


async def test_with_owner_the_key_is_deleted_on_its_owner_only(vhost: str, memcached: MemcachedFactory) -> None:
    nodes = [memcached(), memcached(), memcached()]
    settings = settings_for(vhost, nodes, memcached={"evict_on": "owner"})
    async with working(settings), publishing(vhost) as shop:
        keys = [f"product:{number}" for number in range(50)]
        fill(nodes, *keys)
        await shop.update(*range(50))
        await shop.settled(Topology.of(settings))
        await eventually(lambda: sum(node.get(key) is None for node in nodes for key in keys) == 50)


async def test_keys_carry_the_prefix_of_the_applications_client(vhost: str, memcached: MemcachedFactory) -> None:
    node = memcached()
    async with working(settings_for(vhost, [node], memcached={"prefix": "shop:"})), publishing(vhost) as shop:
        fill([node], "shop:product:7", "product:7")
        await shop.update(7)
        await eventually(lambda: node.get("shop:product:7") is None)
        assert node.get("product:7") == b"old"


POISON = {
    "not-json": b"{not json",
    "bad-utf8": b'{"type": "\xff"}',
    "too-deep": b"[" * 100_000,
    "not-an-object": b"[1]",
    "no-type": b'{"id": 1}',
    "missing-field": b'{"type": "product_updated"}',
    "wrong-type": b'{"type": "product_updated", "id": {"a": 1}}',
    "bad-key": json.dumps({"type": "product_updated", "id": "1\r\nflush_all"}).encode(),
    "too-many-keys": json.dumps({"type": "cache_evict", "keys": [f"k{n}" for n in range(101)]}).encode(),
    "body-too-large": json.dumps({"type": "product_updated", "id": 1, "padding": "x" * 300_000}).encode(),
}


async def test_every_kind_of_poison_is_a_dead_letter_with_its_reason_and_its_neighbours_are_evicted(
    vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    settings = settings_for(vhost, [node], limits=LimitSettings(event_keys=100))
    async with working(settings), publishing(vhost) as shop:
        fill([node], *(f"product:{number}" for number in range(len(POISON) + 1)))
        for number, body in enumerate(POISON.values()):
            await shop.update(number)
            await shop.raw(body)
        await shop.raw(b"\x1f\x8b", content_encoding="gzip")
        await shop.update(len(POISON))
        await shop.settled(Topology.of(settings))
        await eventually(lambda: gone([node], *(f"product:{number}" for number in range(len(POISON) + 1))))
    async with publishing(vhost) as shop:
        letters = await shop.take("invalidator.eu.dead")
        assert {*POISON, "unknown-encoding"} == {letter.headers["x-invalidator-reason"] for letter in letters}
        assert len(letters) == len(POISON) + 1
        by_reason = {letter.headers["x-invalidator-reason"]: letter.body for letter in letters}
        assert by_reason | {"unknown-encoding": b""} == POISON | {"unknown-encoding": b""}
        assert await shop.ready("invalidator.eu") == 0


async def test_thousands_of_events_of_two_publishers_with_poison_among_them_reach_every_node_of_both_clusters(
    vhost: str, memcached: MemcachedFactory
) -> None:
    count, seed = 5_000, random.Random(2)
    eu, us = [memcached(), memcached()], [memcached(), memcached()]
    clusters = [settings_for(vhost, eu), settings_for(vhost, us, cluster="us")]
    bodies, keys = [], []
    for number in range(count):
        if number % 200 == 0:
            bodies.append(b"poison %d" % number)
            continue
        named = [f"e{number}:{part}" for part in range(seed.randint(1, 3))]
        keys += named
        bodies.append(json.dumps({"type": "cache_evict", "keys": named}).encode())
    async with working(clusters[0]), working(clusters[1]):
        for node in eu + us:
            noreply = b"".join(b"set %s 0 0 1 noreply\r\nx\r\n" % key.encode() for key in keys)
            node.command(noreply + b"mn\r\n", end=b"MN\r\n")
        async with publishing(vhost) as one, publishing(vhost) as two:
            await asyncio.gather(send(one, bodies[0::2]), send(two, bodies[1::2]))
            for settings in clusters:
                await one.settled(Topology.of(settings))
    assert [node.stats()["curr_items"] for node in eu + us] == ["0"] * 4
    async with publishing(vhost) as shop:
        for settings in clusters:
            assert await shop.ready(Topology.of(settings).queue) == 0
            letters = await shop.take(Topology.of(settings).dead)
            # What a slow broker confirms late is rejected, too, without the header: a second letter of one body.
            with_reason = [letter for letter in letters if "x-invalidator-reason" in letter.headers]
            assert {letter.body for letter in with_reason} == {body for body in bodies if b"poison" in body}
            assert {letter.headers["x-invalidator-reason"] for letter in with_reason} == {"not-json"}


async def send(shop: Publishing, bodies: list[bytes]) -> None:
    for start in range(0, len(bodies), 500):
        await asyncio.gather(*(shop.raw(body) for body in bodies[start : start + 500]))


async def test_keys_of_a_hung_node_are_parked_while_the_others_go_on_and_drained_when_it_answers(
    vhost: str, memcached: MemcachedFactory
) -> None:
    healthy, hung = memcached(), memcached()
    settings = settings_for(vhost, [healthy, hung], memcached={"deadline": 0.3})
    topology = Topology.of(settings)
    async with working(settings), publishing(vhost) as shop:
        fill([healthy, hung], "product:1", "product:2", "product:3")
        hung.pause()
        await shop.update(1)
        await eventually(lambda: healthy.get("product:1") is None)
        while await shop.ready(topology.parked("c2")) == 0:
            await asyncio.sleep(0.02)
        await shop.update(2, 3)
        await eventually(lambda: gone([healthy], "product:2", "product:3"))
        hung.resume()
        await eventually(lambda: gone([hung], "product:1", "product:2", "product:3"))
        await shop.settled(topology)


async def test_a_node_back_with_its_old_values_loses_every_one_of_them(
    vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    gate = await proxy(node.address)
    settings = settings_for(vhost, {"c1": gate.address}, memcached={"deadline": 0.3})
    async with working(settings), publishing(vhost) as shop:
        keys = [f"product:{number}" for number in range(100)]
        fill([node], *keys)
        await gate.refuse()
        await gate.reset()
        await shop.update(*range(100))
        while await shop.ready("invalidator.eu"):
            await asyncio.sleep(0.02)
        assert not gone([node], keys[0])
        await gate.start()
        await eventually(lambda: gone([node], *keys))
        await shop.settled(Topology.of(settings))


async def test_old_keys_are_not_evicted_twice_by_acked_events_after_a_restart_of_the_worker(
    vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    settings = settings_for(vhost, [node])
    async with publishing(vhost) as shop:
        async with working(settings):
            fill([node], "product:1")
            await shop.update(1)
            await eventually(lambda: gone([node], "product:1"))
        fill([node], "product:1")
        async with working(settings):
            await shop.update(2)
            await shop.settled(Topology.of(settings))
        assert node.get("product:1") == b"old"


async def test_a_wrong_password_is_refused_at_the_start(vhost: str, memcached: MemcachedFactory) -> None:
    settings = changed(settings_for(vhost, [memcached()]), "broker", password=Secret("wrong"))
    with pytest.raises(RefusedError, match=r'refuses user "guest": wrong user or password; see broker\.url'):
        await Worker(settings).run(asyncio.Event())


async def test_a_missing_vhost_is_refused_at_the_start(broker: Broker, memcached: MemcachedFactory) -> None:
    with pytest.raises(RefusedError, match="vhost nowhere not found"):
        await Worker(settings_for(broker.url("nowhere"), [memcached()])).run(asyncio.Event())


async def test_a_queue_with_other_arguments_is_a_configuration_error_that_names_the_argument(
    vhost: str, memcached: MemcachedFactory
) -> None:
    async with publishing(vhost) as shop, shop.connection.channel() as channel:
        await channel.declare_queue("invalidator.eu", durable=True)
    with pytest.raises(ConfigurationError, match=r"inequivalent arg 'x-.*' for queue 'invalidator.eu'"):
        await Worker(settings_for(vhost, [memcached()])).run(asyncio.Event())


async def test_passive_declare_waits_for_the_queue_and_makes_nothing(vhost: str, memcached: MemcachedFactory) -> None:
    active = settings_for(vhost, [memcached()])
    passive = changed(active, "broker", declare="passive")
    worker, stopping = Worker(passive), asyncio.Event()
    running = asyncio.create_task(worker.run(stopping))
    await eventually(lambda: "invalidator topology declare" in worker.status())
    async with working(active):
        await eventually(lambda: worker.status() == "consuming")
    stopping.set()
    await running


async def test_a_first_start_is_no_gap_and_a_queue_that_was_deleted_since_is_one(
    broker: Broker, vhost: str, memcached: MemcachedFactory
) -> None:
    settings = settings_for(vhost, [memcached()])
    before = metrics.GAPS._value.get()
    for _ in range(2):
        async with working(settings):
            assert metrics.GAPS._value.get() == before
    broker.api("DELETE", f"/queues/{vhost.rpartition('/')[2]}/invalidator.eu")
    async with working(settings):
        assert metrics.GAPS._value.get() == before + 1


async def test_the_management_ui_shows_which_worker_of_which_cluster_is_on_which_host(
    broker: Broker, vhost: str, memcached: MemcachedFactory
) -> None:
    name = vhost.rpartition("/")[2]
    async with working(settings_for(vhost, [memcached()])):
        found: list[str] = []

        def listed() -> bool:
            found[:] = [
                one["client_properties"]["connection_name"] for one in broker.api("GET", f"/vhosts/{name}/connections")
            ]
            return any("consumes" in one for one in found)

        await eventually(listed, every=0.2)
        assert [one for one in found if one.startswith("invalidator worker eu @") and one.endswith("] consumes")]


async def test_evictions_are_announced_with_numbers_and_heartbeats(vhost: str, memcached: MemcachedFactory) -> None:
    settings = settings_for(vhost, [memcached()])
    async with working(settings), publishing(vhost) as shop, shop.connection.channel() as channel:
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind("cache.purged", routing_key="eu")
        await shop.raw(b'{"type":"product_updated","id":7}', message_id="event-7")
        received: list[dict[str, object]] = []
        async with asyncio.timeout(60), queue.iterator(no_ack=True) as messages:
            async for message in messages:
                received.append(msgspec.json.decode(message.body))
                if received[-1].get("keys") == ["product:7", "product:7:reviews"]:
                    await shop.update(8)
                if received[-1]["number"] == 2 and "keys" not in received[-1]:
                    break
        announced = [one for one in received if "keys" in one]
        assert [one["number"] for one in announced] == [1, 2]
        assert announced[0]["keys"] == ["product:7", "product:7:reviews"]
        assert announced[0]["events"] == ["event-7"]
        assert len({one["worker"] for one in received}) == 1
