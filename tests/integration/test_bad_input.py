"""Bad events: too long, too large, twice, out of order, too late, or made to break out of a line."""

import json
import random
import re

import pytest

from tests.integration.aftermath import fill, held, trial
from tests.integration.conftest import MemcachedFactory, ProxyFactory
from tests.integration.shop import eventually, publishing, settings_for

pytestmark = pytest.mark.usefixtures("intake")

#: Whole requests that a worker may send to a node, with the key of each delete.
REQUEST = re.compile(rb"delete ([\x21-\x7e\x80-\xff]{1,250}) noreply\r\n|md invalidator\xc2\xb7fence O\d+\r\n")

STRANGE = [
    "1\r\nflush_all", "1\r\nset product:2 0 0 1\r\nx", "1 noreply\r\nflush_all\r\n", "a b", " a", "a ", "\t", "\r",
    "\n", "\0", "\x7f", "\x1b[2J", "", "\x85", "\u2028", "\ufeff", "\ud800", "x" * 243, "é" * 200,
    "x" * 100_000,
]  # fmt: skip
NORMAL = [
    "é", "ключ", "🔥", "\u00a0", "1", "abc-123", "{}", '"', "\\", "%0d%0aflush_all", "delete", "0", "x" * 225,
    "\x21", "\x7e", "a:b:c",
]  # fmt: skip


async def test_whatever_an_id_is_made_of_a_node_reads_nothing_but_deletes_of_good_keys_and_fences(
    vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    gate = await proxy(node.address)
    sent = bytearray()

    def capture(data: bytes) -> bytes:
        sent.extend(data)
        return data

    gate.requests.rewrite = capture
    chance = random.Random(11)
    ids = STRANGE + ["".join(chance.choices("ab1:\r\n\t \0\x7fé🔥", k=chance.randint(1, 300))) for _ in range(500)]
    bad = [id for id in ids if not makes_a_key(id)]
    async with trial(settings_for(vhost, {"c1": gate.address}), [node]) as (shop, _):
        fill(node, ["untouched"])
        shop.fill(*NORMAL)
        await shop.publish_poison(*(event(id) for id in bad))
        await shop.publish(*NORMAL)
    assert not REQUEST.sub(b"", sent)
    deleted = {key.decode() for key in REQUEST.findall(sent) if key}
    allowed = {id for id in [*ids, *NORMAL, "the-last"] if id not in bad}
    assert deleted == {key for id in allowed for key in (f"product:{id}", f"product:{id}:reviews")} & deleted
    assert {f"product:{id}" for id in NORMAL} <= deleted
    assert held(node, ["untouched"])


def makes_a_key(id: str) -> bool:
    return bool(re.fullmatch(r"[^\x00-\x20\x7f-\x9f\ud800]+", id)) and len(id.encode()) <= 234


def event(id: object, **more: object) -> bytes:
    return json.dumps({"type": "product_updated", "id": id} | more).encode()


def evict(keys: list[str]) -> bytes:
    return json.dumps({"type": "cache_evict", "keys": keys}).encode()


async def test_what_is_over_a_limit_is_a_dead_letter_and_what_is_just_under_it_is_evicted(
    vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    async with trial(settings_for(vhost, [node]), [node]) as (shop, _):
        limits = shop.settings.limits
        padding = limits.body_bytes - len(event("largest", padding=""))
        largest = event("largest", padding="x" * padding)
        assert len(largest) == limits.body_bytes
        most = [f"m:{number}" for number in range(limits.event_keys)]
        too_many = [f"product:{number}" for number in range(limits.event_keys + 1)]
        fill(node, [*most, *too_many])
        shop.fill("largest", "neighbour")
        await shop.publish_poison(
            event("neighbour", padding="x" * 1_048_576),
            largest + b" ",
            evict(too_many),
            evict([f"product:{number}" for number in range(100_000)]),
        )
        async with publishing(vhost) as publisher:
            await publisher.raw(largest)
            await publisher.raw(evict(most))
        await eventually(lambda: not held(node, most))
        assert node.stats()["curr_items"] == str(len(too_many) + 1)
        await shop.publish("neighbour")


async def test_an_event_of_9999_keys_is_evicted_in_chunks_and_starves_nobody(
    vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    """Publish ten such events and one behind them, which is evicted soon all the same."""
    node = memcached()
    gate = await proxy(node.address)
    async with trial(settings_for(vhost, {"c1": gate.address}), [node]) as (shop, _):
        large = [[f"k{event}:{number}" for number in range(9_999)] for event in range(10)]
        for keys in large:
            fill(node, keys)
        shop.fill("behind")
        async with publishing(vhost) as publisher:
            for keys in large:
                await publisher.raw(evict(keys))
            await publisher.update("behind")
        await eventually(lambda: shop.is_gone("behind"))
        await eventually(lambda: not any(held(node, keys) for keys in large))


async def test_duplicated_reordered_and_late_events_do_no_harm(vhost: str, memcached: MemcachedFactory) -> None:
    node = memcached()
    async with trial(settings_for(vhost, [node]), [node]) as (shop, _):
        products = [number % 50 for number in range(500)]
        random.Random(3).shuffle(products)
        shop.fill(*range(50))
        fill(node, ["product:other"])
        await shop.publish(*products)
        await eventually(shop.is_gone)
        fill(node, ["product:7"], b"new")  # read and cached after the update
        await shop.publish(7)  # late: one miss more, and no old value anywhere
        await eventually(lambda: shop.is_gone(7))
        assert held(node, ["product:other"])
