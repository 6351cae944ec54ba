"""Gathering and settling on a scripted channel: the acknowledgements and their order."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiormq.abc import AbstractChannel
from pamqp import commands

from invalidator.broker.consume.subscription import BATCH_BYTES, Batch, Subscription
from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.tap import Tap


class Channel:
    """A channel that records its calls, and can be closed."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.is_closed = False
        self.number = 1

    async def basic_ack(self, tag: int, *, multiple: bool, wait: bool) -> None:
        self.asked.append(("ack", tag, multiple))

    async def basic_reject(self, tag: int, *, requeue: bool, wait: bool) -> None:
        self.asked.append(("reject", tag, requeue))

    async def basic_cancel(self, consumer_tag: str) -> None:
        self.asked.append(("cancel", consumer_tag))


class Reading:
    """A connection's protocol that can be paused, and records what it sends."""

    def __init__(self, channel: Channel) -> None:
        self.asked = channel.asked
        self.paused = False
        self.tap = Tap()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def send(self, channel: int, method: commands.Basic.Ack | commands.Basic.Reject) -> None:
        assert channel == 1
        match method:
            case commands.Basic.Ack():
                self.asked.append(("ack", method.delivery_tag, method.multiple))
            case commands.Basic.Reject():
                self.asked.append(("reject", method.delivery_tag, method.requeue))


def delivery(tag: int, body: bytes = b"") -> Delivery:
    return Delivery(tag.to_bytes(8, "big") + b"\x00\x00\x00", b"\x00" * 2, body)


@pytest.fixture(params=["tap", "aio-pika"])
async def story(request: pytest.FixtureRequest) -> SimpleNamespace:
    channel = Channel()
    reading = Reading(channel)
    tapped = cast(Any, reading) if request.param == "tap" else None
    subscription = Subscription(
        cast(AbstractChannel, channel), "invalidator.eu", "tag", tapped=tapped, buffer_bytes=100
    )
    return SimpleNamespace(channel=channel, reading=reading, subscription=subscription)


async def batches(subscription: Subscription, *sizes: int) -> list[Batch]:
    subscription._gather([delivery(tag) for tag in range(1, sum(sizes) + 1)])
    taken = [await subscription.batch(size) for size in sizes]
    return [batch for batch in taken if batch]


async def test_a_batch_is_what_has_gathered_up_to_the_limit(story: SimpleNamespace) -> None:
    first, second = await batches(story.subscription, 2, 3)
    assert [d.tag for d in first.deliveries] == [1, 2]
    assert [d.tag for d in second.deliveries] == [3, 4, 5]
    assert story.subscription.held == 5


async def test_of_large_bodies_a_batch_has_fewer_but_never_none(story: SimpleNamespace) -> None:
    large = [delivery(tag, b"x" * (BATCH_BYTES // 2)) for tag in range(1, 6)]
    story.subscription._gather([*large, delivery(6, b"x" * 3 * BATCH_BYTES), delivery(7)])
    sizes = []
    while batch := story.subscription.take(1000):
        assert batch.bytes == sum(len(one.body) for one in batch.deliveries)
        sizes.append(len(batch.deliveries))
        await story.subscription.settle(batch)
    assert sizes == [1, 1, 1, 1, 1, 1, 1]
    story.subscription._gather(large)
    assert [len(batch.deliveries) for batch in (story.subscription.take(9), story.subscription.take(9))] == [2, 2]
    assert story.subscription.held == 5


async def test_a_batch_comes_as_soon_as_there_is_one_delivery(story: SimpleNamespace) -> None:
    waiting = asyncio.create_task(story.subscription.batch(10))
    await asyncio.sleep(0)
    story.subscription._gather([delivery(1)])
    batch = await waiting
    assert [d.tag for d in batch.deliveries] == [1]


async def test_settled_in_order_each_batch_is_one_acknowledgement(story: SimpleNamespace) -> None:
    for batch in await batches(story.subscription, 2, 3):
        await story.subscription.settle(batch)
    assert story.channel.asked == [("ack", 2, True), ("ack", 5, True)]
    assert story.subscription.held == 0


async def test_a_batch_that_is_done_first_waits_for_the_one_before_it(story: SimpleNamespace) -> None:
    first, second = await batches(story.subscription, 2, 3)
    await story.subscription.settle(second)
    assert story.channel.asked == []
    await story.subscription.settle(first)
    assert story.channel.asked == [("ack", 5, True)]


async def test_a_rejected_delivery_is_never_acknowledged_up_to(story: SimpleNamespace) -> None:
    first, second = await batches(story.subscription, 2, 1)
    await story.subscription.refuse(first, first.deliveries[1])
    await story.subscription.refuse(second, second.deliveries[0])
    await story.subscription.settle(first)
    await story.subscription.settle(second)
    assert story.channel.asked == [("reject", 2, False), ("reject", 3, False), ("ack", 1, True)]


async def test_a_wholly_refused_batch_does_not_hide_the_tag_of_the_batch_before_it(story: SimpleNamespace) -> None:
    first, second = await batches(story.subscription, 2, 1)
    await story.subscription.refuse(second, second.deliveries[0])
    await story.subscription.settle(second)
    await story.subscription.settle(first)
    assert story.channel.asked == [("reject", 3, False), ("ack", 2, True)]


async def test_nothing_is_sent_on_a_channel_that_is_gone(story: SimpleNamespace) -> None:
    (batch,) = await batches(story.subscription, 2)
    story.channel.is_closed = True
    await story.subscription.refuse(batch, batch.deliveries[0])
    await story.subscription.settle(batch)
    assert story.channel.asked == []


async def test_with_the_channel_goes_what_had_only_gathered(story: SimpleNamespace) -> None:
    story.subscription._gather([delivery(1)])
    closing = asyncio.get_running_loop().create_future()
    closing.set_result(None)
    story.subscription._channel_closed(closing)
    assert await story.subscription.batch(10) is None
    assert story.subscription.ended.result() == "the channel was closed"


async def test_what_gathered_from_a_queue_that_was_deleted_still_leaves_as_a_batch(story: SimpleNamespace) -> None:
    story.subscription._gather([delivery(1)])
    story.subscription._consumer_cancelled(commands.Basic.Cancel("tag"))
    closing = asyncio.get_running_loop().create_future()
    closing.set_result(None)
    story.subscription._channel_closed(closing)
    batch = await story.subscription.batch(10)
    assert [d.tag for d in batch.deliveries] == [1]
    assert await story.subscription.batch(10) is None


async def test_after_a_cancel_what_is_held_is_handed_out_and_then_nothing(story: SimpleNamespace) -> None:
    story.subscription._gather([delivery(1)])
    await story.subscription.cancel()
    assert await story.subscription.batch(10) is not None
    assert await story.subscription.batch(10) is None
    assert story.channel.asked == [("cancel", "tag")]


@pytest.mark.parametrize("story", ["tap"], indirect=True)
async def test_reading_pauses_above_the_buffers_limit_until_enough_is_settled(story: SimpleNamespace) -> None:
    story.subscription._gather([delivery(1, b"x" * 60), delivery(2, b"x" * 60)])
    batch = await story.subscription.batch(1)
    assert story.reading.paused
    await story.subscription.settle(batch)
    assert not story.reading.paused


async def test_cancelling_wakes_up_the_one_that_waits_for_a_batch(story: SimpleNamespace) -> None:
    waiting = asyncio.create_task(story.subscription.batch(10))
    await asyncio.sleep(0)
    await story.subscription.cancel()
    async with asyncio.timeout(5):
        assert await waiting is None


async def test_cancelling_calls_on_ready_because_nothing_more_will_come(story: SimpleNamespace) -> None:
    over: list[bool] = []
    story.subscription._on_ready = lambda: over.append(story.subscription.is_over)
    await story.subscription.cancel()
    assert [True] == over
