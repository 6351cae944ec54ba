"""A broker of three nodes, and a worker that knows all of them: it moves on when its own dies, and nothing is lost."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest

from invalidator.broker.publish.publisher import ConfirmedPublisher
from invalidator.errors import InvalidatorError
from tests.integration.aftermath import Trial, trial
from tests.integration.conftest import MemcachedFactory, ProxyFactory, require
from tests.integration.shop import eventually, settings_for
from tests.servers import Broker, rabbitmq_is_installed

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

#: Seconds that a pause may take: the next leader, the next address, and the quorum again.
PAUSE = 30.0

Three = tuple[Broker, Broker, Broker]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Three]:
    require("rabbitmq", installed=rabbitmq_is_installed())
    with Broker() as one, Broker(peer=one) as two, Broker(peer=one) as three:
        yield one, two, three


@pytest.fixture
async def three(cluster: Three) -> AsyncIterator[Three]:
    """Yield all three nodes; start those again that the test killed."""
    yield cluster
    await asyncio.gather(*(asyncio.to_thread(node.start) for node in cluster if not node.running))


def leader(cluster: Three, vhost: str) -> Broker | None:
    """Return the leader of the cluster's queue, once all three nodes are in step."""
    queue = cluster[0].api("GET", f"/queues/{vhost}/invalidator.eu")
    if len(queue.get("online", ())) < len(cluster):
        return None
    return next(node for node in cluster if node.node == queue["leader"])


async def test_a_worker_whose_broker_node_dies_moves_on_to_another(
    three: Three, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    """The node is also the leader of the queue, which was declared there, and a debt has to be parked meanwhile."""
    node, name = memcached(), f"test-{uuid.uuid4().hex[:8]}"
    gate = await proxy(node.address)
    others = {"alternates": [other.address for other in three[1:]]}
    settings = settings_for(three[0].add_vhost(name), {"c1": gate.address}, broker=others)
    async with trial(settings, [node], url=three[1].url(name), within=PAUSE) as (shop, worker):
        await eventually(lambda: leader(three, name) is three[0], every=0.2)
        shop.fill(*range(20))
        await gate.refuse()
        await shop.publish(*range(10))
        three[0].kill()
        await eventually(lambda: worker.status().startswith("waiting for the broker"))
        await eventually(lambda: worker.status().startswith("consuming"), within=PAUSE)
        await shop.publish(*range(10, 20))
        await shop.is_parked("c1", within=PAUSE)
        await gate.start()


async def test_a_queue_whose_leader_dies_goes_on_with_another(three: Three, memcached: MemcachedFactory) -> None:
    node, name = memcached(), f"test-{uuid.uuid4().hex[:8]}"
    three[0].add_vhost(name)
    settings = settings_for(three[1].url(name), [node], broker={"alternates": [three[2].address]})
    async with trial(settings, [node], within=PAUSE) as (shop, _):
        await eventually(lambda: leader(three, name) is three[1], every=0.2)
        shop.fill(*range(20))
        await shop.publish(*range(10))
        three[1].kill()
        shop.url = three[2].url(name)
        await shop.publish(*range(10, 20))


async def test_a_lost_follower_is_not_even_noticed(three: Three, memcached: MemcachedFactory) -> None:
    node, name = memcached(), f"test-{uuid.uuid4().hex[:8]}"
    settings = settings_for(three[0].add_vhost(name), [node])
    async with trial(settings, [node], within=PAUSE) as (shop, worker):
        await eventually(lambda: leader(three, name) is three[0], every=0.2)
        three[2].kill()
        shop.fill(*range(20))
        await shop.publish(*range(20))
        await eventually(shop.is_gone)
        assert worker.status() == "consuming"


async def test_a_lost_majority_is_waited_for(three: Three, memcached: MemcachedFactory, proxy: ProxyFactory) -> None:
    node, name = memcached(), f"test-{uuid.uuid4().hex[:8]}"
    gate = await proxy(node.address)
    settings = settings_for(three[0].add_vhost(name), {"c1": gate.address}, memcached={"deadline": 60.0})
    async with trial(settings, [node], within=PAUSE) as (shop, _):
        await eventually(lambda: leader(three, name) is three[0], every=0.2)
        gate.replies.hold()
        shop.fill(*range(20))
        await shop.publish(*range(20))
        await eventually(lambda: shop.is_gone(0))
        three[1].kill()
        three[2].kill()
        gate.replies.release()
        await asyncio.gather(*(asyncio.to_thread(one.start) for one in three[1:]))


async def test_a_publisher_refused_while_a_queue_has_no_leader_is_confirmed_once_it_has_one(three: Three) -> None:
    """RabbitMQ 3.10 refuses a channel for good that has published to a queue whose leader had just gone."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    three[0].add_vhost(name)
    shop = Trial(settings_for(three[0].url(name), {"c1": "127.0.0.1:1"}), [])
    await shop.declare()
    await eventually(lambda: leader(three, name) is three[0], every=0.2)
    broker = msgspec.structs.replace(shop.settings.broker, url=three[1].url(name))
    publisher = ConfirmedPublisher(lambda: broker, name="publisher")
    three[0].kill()
    async with asyncio.timeout(PAUSE):
        while not await confirmed(publisher, shop.topology.parked("c1")):
            await asyncio.sleep(0.1)
    await publisher.close()


async def confirmed(publisher: ConfirmedPublisher, queue: str) -> bool:
    try:
        await publisher.publish(b"{}", exchange="", routing_key=queue)
    except InvalidatorError:
        return False
    return True
