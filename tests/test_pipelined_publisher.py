"""Thousands of messages in flight on a scripted channel: what counts as confirmed, when there is room, what ends it."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pika
import pytest
from pika.spec import Basic

from invalidator.broker import pipelined_publisher as module
from invalidator.broker.pipelined_publisher import Bulk
from invalidator.errors import UnconfirmedError, UnroutableError
from invalidator.settings import BrokerSettings


class Channel:
    """Takes every message and says nothing by itself."""

    is_open = True

    def __init__(self) -> None:
        self.published: list[bytes] = []

    def basic_publish(self, exchange: str, key: str, body: bytes, properties: object, *, mandatory: bool) -> None:
        assert (exchange, key, mandatory) == ("product.updates", "", True)
        self.published.append(body)


@pytest.fixture
def bulk(monkeypatch: pytest.MonkeyPatch) -> Bulk:
    """Room for four messages; there is again once three or fewer are in flight."""
    monkeypatch.setattr(module, "OUTSTANDING", 4)
    monkeypatch.setattr(module, "REFILL", 3)
    counts: list[int] = []
    bulk = Bulk(BrokerSettings(publish_timeout=0.1), name="test", confirmed=counts.append)
    bulk._channel = Channel()
    bulk.counts = counts  # type: ignore[attr-defined]
    return bulk


def confirmed(bulk: Any) -> int:
    return sum(bulk.counts)


def says(bulk: Bulk, method: Any) -> None:
    bulk._on_confirm(SimpleNamespace(method=method))


async def publish(bulk: Bulk, count: int) -> None:
    for number in range(count):
        await bulk.publish(b"%d" % number, pika.BasicProperties())


async def waits(bulk: Bulk, task: "asyncio.Task[None]") -> bool:
    await asyncio.sleep(0.01)
    return not task.done()


async def test_acks_are_counted_singly_and_up_to_a_tag_in_whatever_order(bulk: Bulk) -> None:
    await publish(bulk, 4)
    says(bulk, Basic.Ack(3))
    assert confirmed(bulk) == 1
    says(bulk, Basic.Ack(4, multiple=True))
    assert confirmed(bulk) == 4
    says(bulk, Basic.Ack(4))
    assert confirmed(bulk) == 4, "once each"
    await bulk.flush()


async def test_what_has_no_room_waits_until_something_is_confirmed(bulk: Bulk) -> None:
    publishing = asyncio.create_task(publish(bulk, 5))
    assert await waits(bulk, publishing)
    assert len(bulk._channel.published) == 4
    says(bulk, Basic.Ack(1))
    await publishing
    assert bulk._channel.published[-1] == b"4"


async def test_a_nack_counts_for_nothing_ends_it_and_what_is_in_flight_is_waited_for(bulk: Bulk) -> None:
    await publish(bulk, 3)
    says(bulk, Basic.Nack(1))
    with pytest.raises(UnconfirmedError, match="would not store"):
        await publish(bulk, 1)
    flushing = asyncio.create_task(bulk.flush())
    assert await waits(bulk, flushing)
    says(bulk, Basic.Ack(3, multiple=True))
    with pytest.raises(UnconfirmedError, match="would not store"):
        await flushing
    assert (confirmed(bulk), len(bulk._channel.published)) == (2, 3)


async def test_the_ack_behind_a_return_confirms_nothing(bulk: Bulk) -> None:
    await publish(bulk, 1)
    bulk._on_return(None, None, None, b"")
    says(bulk, Basic.Ack(1))
    with pytest.raises(UnroutableError, match="no queue is bound"):
        await bulk.flush()
    assert confirmed(bulk) == 0


async def test_a_broker_that_stays_silent_is_given_up(bulk: Bulk) -> None:
    await publish(bulk, 2)
    with pytest.raises(UnconfirmedError, match=r"did not confirm within 0\.1 s"):
        await bulk.flush()


async def test_a_lost_channel_is_not_waited_on(bulk: Bulk) -> None:
    await publish(bulk, 2)
    bulk._fail(UnconfirmedError("lost the broker"))
    bulk._channel.is_open = False
    async with asyncio.timeout(0.05):
        with pytest.raises(UnconfirmedError, match="lost the broker"):
            await bulk.flush()
