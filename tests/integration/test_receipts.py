"""Receipts on real servers: `--wait` reports the eviction in every cluster, or which one has not answered."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aio_pika
import pytest

from invalidator.operate.diagnosis.permissions import Permissions
from invalidator.runtime import metrics
from invalidator.settings import Settings
from tests.integration.aftermath import trial
from tests.integration.conftest import MemcachedFactory
from tests.integration.shell import Shell, as_user
from tests.integration.shop import publishing, settings_for, working
from tests.servers import Broker, Memcached


class Clusters:
    """Two clusters on one broker, and a shell in the first."""

    def __init__(self, url: str, eu: list[Memcached], us: list[Memcached], broker: Broker, folder: Path) -> None:
        self.nodes = eu + us
        self.eu = settings_for(url, eu, memcached={"deadline": 0.3})
        self.us = settings_for(url, us, cluster="us")
        self.shell = Shell(self.eu, broker, folder)

    @asynccontextmanager
    async def working(self, *settings: Settings) -> AsyncIterator[None]:
        """Declare both clusters, and run workers for these."""
        async with AsyncExitStack() as stack:
            for each in (self.eu, self.us):
                async with working(each):
                    pass
            for each in settings:
                await stack.enter_async_context(working(each))
            yield


@pytest.fixture
def clusters(vhost: str, broker: Broker, memcached: MemcachedFactory, tmp_path: Path) -> Clusters:
    return Clusters(vhost, [memcached(), memcached()], [memcached()], broker, tmp_path)


async def test_evict_waits_until_every_cluster_has_evicted(clusters: Clusters) -> None:
    async with clusters.working(clusters.eu, clusters.us):
        for node in clusters.nodes:
            node.set("product:7", b"old")
        done = await clusters.shell.run("evict", "product:7", "product:8", "--wait")
        assert [None] * 3 == [node.get("product:7") for node in clusters.nodes]
        assert (0, "") == (done.returncode, done.stderr)
        header, eu, us = (line.split() for line in done.stdout.splitlines())
        assert ["CLUSTER", "WORKER", "EVICTED", "PARKED", "FOR", "MILLISECONDS"] == header
        assert [("eu", "2", "-"), ("us", "2", "-")] == [(row[0], *row[2:4]) for row in (eu, us)]


async def test_a_cluster_without_a_worker_is_named(clusters: Clusters) -> None:
    async with clusters.working(clusters.eu):
        done = await clusters.shell.run("evict", "product:7", "--wait=1")
        assert 75 == done.returncode
        assert "no receipt from us in time" in done.stderr
        assert done.stdout.splitlines()[1].startswith("eu ")


async def test_a_node_for_which_the_keys_are_parked_is_named(clusters: Clusters) -> None:
    async with clusters.working(clusters.eu, clusters.us):
        clusters.nodes[1].kill()
        done = await clusters.shell.run("publish", "product_updated", "id=7", "--wait", "-o", "json")
        assert 75 == done.returncode
        assert "eu: c2 did not answer; the keys are parked" in done.stderr
        report = json.loads(done.stdout)
        assert [] == report["missing"]
        assert [("eu", 0, ["c2"]), ("us", 2, [])] == [
            (one["cluster"], one["evicted"], one["parked"]) for one in report["clusters"]
        ]


async def test_many_events_are_waited_for_until_the_last(clusters: Clusters) -> None:
    async with clusters.working(clusters.eu, clusters.us):
        count = ("--count", "500", "--wait=30", "-o", "json")
        done = await clusters.shell.run("publish", "product_updated", "id={n}", *count)
        assert 0 == done.returncode, done.stderr
        reports = json.loads(done.stdout)["clusters"]
        assert [("eu", 500, 1000), ("us", 500, 1000)] == [
            (one["cluster"], one["events"], one["evicted"]) for one in reports
        ]


async def test_a_dead_letter_is_reported_as_not_evicted(clusters: Clusters) -> None:
    async with clusters.working(clusters.eu, clusters.us):
        done = await clusters.shell.run("publish", "product_updated", "--wait")
        assert 75 == done.returncode
        assert "eu: a dead letter (missing-field)" in done.stderr


async def test_the_clusters_to_wait_for_are_known_before_anything_is_sent(clusters: Clusters) -> None:
    blind = {"INVALIDATOR_MANAGEMENT__URL": "http://127.0.0.1:1"}
    async with clusters.working(clusters.eu):
        done = await clusters.shell.run("evict", "product:7", "--wait=1", environ=blind)
        assert (69, "") == (done.returncode, done.stdout)
        assert "or name the clusters in management.expect" in done.stderr
        async with publishing(clusters.eu.broker.url) as shop:
            assert 0 == await shop.ready("invalidator.us")
        named = blind | {"INVALIDATOR_MANAGEMENT__EXPECT": '["eu"]'}
        assert 0 == (await clusters.shell.run("evict", "product:7", "--wait", environ=named)).returncode


async def test_a_user_who_may_publish_may_wait(clusters: Clusters, broker: Broker) -> None:
    publisher = Permissions(configure="^$", write=r"^product\.updates$", read="^$")
    async with clusters.working(clusters.eu, clusters.us):
        done = await as_user(clusters.shell, broker, clusters.eu.broker.url, publisher, "evict", "product:7", "--wait")
    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize("consumer", ["tap", "aio-pika"])
async def test_a_reply_may_go_to_a_queue_with_the_configured_prefix_and_to_no_other(
    consumer: str, vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    settings = settings_for(vhost, [node], broker={"reply_prefix": "replies.", "consumer": consumer})
    async with publishing(vhost) as shop, working(settings):
        for name in ("replies.shop", "somebody-elses"):
            await (await shop.connection.channel()).declare_queue(name, durable=True)
            await shop.raw(b'{"type":"product_updated","id":7}', reply_to=name, correlation_id="it")
        taken: list[aio_pika.abc.AbstractIncomingMessage] = []
        async with publishing(vhost) as other:
            while not taken:
                taken = await other.take("replies.shop")
            assert 0 == await other.ready("somebody-elses")
    (message,) = taken
    assert "it" == message.correlation_id
    assert json.loads(message.body) | {"worker": "", "milliseconds": 0} == {
        "cluster": "eu",
        "worker": "",
        "milliseconds": 0,
        "evicted": 2,
    }


#: One that the worker can see to be malformed, and one that only RabbitMQ can, which closes the connection.
MALFORMED = ("amq.rabbitmq.reply-to.x.y", "amq.rabbitmq.reply-to.bm90IGEgcGlk.eHh4")


@pytest.mark.parametrize("reply_to", MALFORMED)
async def test_a_malformed_reply_to_costs_nothing_but_its_receipt(
    reply_to: str, vhost: str, memcached: MemcachedFactory
) -> None:
    nodes = [memcached(), memcached()]
    settings = settings_for(vhost, nodes, memcached={"deadline": 0.3})
    refused = counted("refused")
    async with trial(settings, nodes) as (shop, _), publishing(vhost) as raw:
        shop.fill(*range(20))
        nodes[1].kill()
        for id in range(20):
            await raw.raw(b'{"type":"product_updated","id":%d}' % id, reply_to=reply_to, correlation_id="it")
            await shop.publish_poison(b"poison %d" % id)
        await shop.is_parked("c2")
        async with publishing(vhost) as other:
            while await other.ready(shop.topology.dead) < 20:
                pass
        nodes[1].start()
    assert (20 if reply_to == MALFORMED[0] else 0) == counted("refused") - refused


def counted(outcome: str) -> float:
    return float(metrics.RECEIPTS.labels(outcome)._value.get())
