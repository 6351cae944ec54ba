"""The applications' publishers, on a real broker: what is confirmed, and what an error says."""

import asyncio
import json
import os
import time

import pytest

from invalidator.errors import (
    PoisonError,
    RefusedError,
    UnroutableError,
)
from invalidator.events.event import decode
from tests.integration.publishers.kinds import EVENT, QUEUE, Make, declare
from tests.integration.shop import Publishing, publishing
from tests.servers import Broker


async def test_a_published_event_is_in_the_queue_with_its_properties(made: Make, shop: Publishing, vhost: str) -> None:
    before = time.time()
    await made(vhost).publish()
    (message,) = await shop.take(QUEUE)
    assert decode(message.body) == decode(json.dumps({"type": "product_updated"} | EVENT).encode())
    assert (message.type, message.app_id, message.content_type) == ("product_updated", "shop", "application/json")
    assert message.delivery_mode == 2
    assert message.message_id
    assert message.timestamp
    assert before - 1 <= message.timestamp.timestamp() <= time.time()


async def test_one_connection_serves_many_publishes_and_names_itself(
    made: Make, shop: Publishing, broker: Broker, vhost: str
) -> None:
    publisher = made(vhost)
    for _ in range(20):
        await publisher.publish()
    assert await shop.ready(QUEUE) == 20
    name = f"invalidator publisher shop @{os.uname().nodename} [{os.getpid()}]"
    assert [name] == await named_connections(broker, vhost)


async def named_connections(broker: Broker, vhost: str) -> list[str]:
    """Return the publishers' names, once the management API knows any."""
    while True:
        found = await asyncio.to_thread(broker.api, "GET", f"/vhosts/{vhost.rpartition('/')[2]}/connections")
        names = [one["client_properties"].get("connection_name", "") for one in found]
        if ours := [name for name in names if name.startswith("invalidator publisher")]:
            return ours
        await asyncio.sleep(0.1)


async def test_many_publish_at_once_and_nothing_is_lost(made: Make, shop: Publishing, vhost: str) -> None:
    publisher = made(vhost)
    await asyncio.gather(*(publisher.publish(data={"id": number}) for number in range(300)))
    ids = [json.loads(message.body)["id"] for message in await shop.take(QUEUE)]
    assert sorted(ids) == list(range(300))


async def test_an_event_that_no_worker_could_read_is_refused_before_it_is_sent(
    made: Make, shop: Publishing, vhost: str
) -> None:
    with pytest.raises(PoisonError):
        await made(vhost).publish(data={"id": object()})
    assert await shop.ready(QUEUE) == 0


async def test_without_a_queue_the_error_says_that_nothing_was_stored_and_the_next_publish_works(
    made: Make, vhost: str, broker: Broker
) -> None:
    publisher = made(vhost)
    with pytest.raises(UnroutableError, match="nothing stored"):
        await publisher.publish()  # there is no exchange
    await declare(vhost)
    async with publishing(vhost) as shop, shop.connection.channel() as channel:
        queue = await channel.declare_queue(QUEUE, passive=True)
        await queue.unbind("product.updates", routing_key="")
        for _ in range(2):
            with pytest.raises(UnroutableError, match="no queue is bound"):
                await publisher.publish()
        await queue.bind("product.updates", routing_key="")
        await publisher.publish()
        assert await shop.ready(QUEUE) == 1


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [("guest:guest", "guest:wrong", "wrong user or password"), ("/test-", "/no-such-", "not found")],
)
async def test_a_refusal_is_no_outage(made: Make, vhost: str, old: str, new: str, says: str) -> None:
    with pytest.raises(RefusedError, match=says) as raised:
        await made(vhost.replace(old, new)).publish()
    assert "wrong@" not in str(raised.value)


async def test_a_user_without_the_permission_to_publish_is_refused(
    made: Make, shop: Publishing, vhost: str, broker: Broker
) -> None:
    name = vhost.rpartition("/")[2]
    broker.api("PUT", f"/users/{name}", {"password": "x", "tags": ""})
    broker.api("PUT", f"/permissions/{name}/{name}", {"configure": "^$", "write": "^other$", "read": "^$"})
    try:
        with pytest.raises(RefusedError, match="set_permissions"):
            await made(vhost.replace("guest:guest", f"{name}:x")).publish()
    finally:
        broker.api("DELETE", f"/users/{name}")
    assert await shop.ready(QUEUE) == 0
