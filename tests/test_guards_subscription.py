"""Guards of a subscription: each test is red without the line that it names."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from invalidator.broker.consume import subscription as module
from invalidator.broker.consume.subscription import CANCELS_ON_DELETION, Subscription
from tests.test_subscription import Channel, Reading, delivery, story

__all__ = ["story"]


class OpenChannel(Channel):
    """A channel that can be consumed from; its consumer is called as aiormq calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.closing: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.on_consumer_cancel_callbacks: set[Any] = set()

    async def basic_qos(self, *, prefetch_count: int, global_: bool = False) -> None:
        self.asked.append(("qos", prefetch_count, global_))

    async def basic_consume(self, queue: str, consumer: Any, *, consumer_tag: str, arguments: Any) -> None:
        self.asked.append(("consume", queue, consumer_tag, arguments))
        self.consumer = consumer

    async def close(self) -> None:
        self.asked.append("close")


class Opened:
    """A subscription that was opened on a scripted channel of a broker of this major version."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.channel = OpenChannel()
        self.reading = Reading(self.channel)
        self._patch = monkeypatch

    async def open(self, *, major: int = CANCELS_ON_DELETION, is_tapped: bool = False) -> Subscription:
        async def raw_channel(_: Any) -> Any:
            return self.channel

        self._patch.setattr(module, "raw_channel", raw_channel)
        self._patch.setattr(module, "major_version", lambda _: major)
        return await Subscription.open(
            cast(Any, None),
            "invalidator.eu",
            tag="tag",
            prefetch=7,
            tapped=cast(Any, self.reading) if is_tapped else None,
            arguments={"x-gap": "none"},
        )


@pytest.fixture
async def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    return Opened(monkeypatch)


async def test_it_consumes_with_its_prefetch_and_arguments(opened: Opened) -> None:
    await opened.open()
    consume = ("consume", "invalidator.eu", "tag", {"x-gap": "none"})
    assert [("qos", 7, False), consume] == opened.channel.asked


async def test_below_rabbitmq_4_a_global_prefetch_makes_the_broker_cancel_it_with_its_queue(opened: Opened) -> None:
    await opened.open(major=CANCELS_ON_DELETION - 1)
    assert ("qos", 65535, True) == opened.channel.asked[-1]


async def test_with_a_tap_its_channel_is_watched_until_it_is_closed(opened: Opened) -> None:
    subscription = await opened.open(is_tapped=True)
    assert [1] == list(opened.reading.tap._watches)
    opened.channel.closing.set_result(None)
    await subscription.ended
    assert [] == list(opened.reading.tap._watches)


async def test_without_a_tap_no_channel_is_watched_and_messages_come_decoded(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "received", delivery)
    subscription = await opened.open()
    assert [] == list(opened.reading.tap._watches)
    await opened.channel.consumer(5)
    batch = subscription.take(9)
    assert batch
    assert [5] == [one.tag for one in batch.deliveries]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, "the channel was closed"),
        (ConnectionError("reset"), "the channel was closed: reset"),
        (asyncio.CancelledError(), "the channel was closed"),
    ],
    ids=["closed", "error", "cancelled"],
)
async def test_a_closed_channel_ends_it_with_the_reason(
    error: BaseException | None, reason: str, opened: Opened
) -> None:
    subscription = await opened.open()
    if isinstance(error, asyncio.CancelledError):
        opened.channel.closing.cancel()
    elif error:
        opened.channel.closing.set_exception(error)
    else:
        opened.channel.closing.set_result(None)
    assert reason == await subscription.ended
    assert not subscription.lost_its_queue


async def test_a_consumer_that_the_broker_cancels_has_lost_its_queue(opened: Opened) -> None:
    subscription = await opened.open()
    [cancelled] = opened.channel.on_consumer_cancel_callbacks
    cancelled(None)
    assert subscription.ended.result().startswith("the broker cancelled the consumer")
    assert subscription.lost_its_queue


async def test_closing_it_closes_its_channel(opened: Opened) -> None:
    await (await opened.open()).close()
    assert "close" == opened.channel.asked[-1]


async def test_a_batch_comes_within_the_time_or_not_at_all(opened: Opened) -> None:
    subscription = await opened.open()
    assert await subscription.batch_within(0.01, 9) is None
    subscription._gather([delivery(1)])
    batch = await subscription.batch_within(60.0, 9)
    assert batch
    assert [1] == [one.tag for one in batch.deliveries]


async def test_what_a_closed_channel_had_gathered_makes_room_again(opened: Opened) -> None:
    subscription = await opened.open(is_tapped=True)
    subscription._buffer_bytes = 10
    subscription._gather([delivery(1, b"x" * 20)])
    assert opened.reading.paused
    opened.channel.closing.set_result(None)
    await subscription.ended
    assert not opened.reading.paused
    assert (0, 0) == (subscription._held_bytes, subscription._gathered_bytes)


# Settling and ending


async def test_it_reads_on_at_the_limit_and_stops_above_it(story: SimpleNamespace) -> None:
    if story.subscription._tapped is None:
        return
    assert 0 == story.subscription._held_bytes
    story.subscription._gather([delivery(1, b"x" * 100)])
    assert not story.reading.paused
    story.subscription._gather([delivery(2, b"x")])
    assert story.reading.paused
    first = story.subscription.take(1)
    second = story.subscription.take(1)
    await story.subscription.settle(second)
    await story.subscription.settle(first)
    assert not story.reading.paused


async def test_at_the_limit_exactly_it_reads_again(story: SimpleNamespace) -> None:
    if story.subscription._tapped is None:
        return
    story.subscription._gather([delivery(1, b"x"), delivery(2, b"x" * 100)])
    assert story.reading.paused
    await story.subscription.settle(story.subscription.take(1))
    assert not story.reading.paused


async def test_the_deliveries_received_are_counted(story: SimpleNamespace) -> None:
    assert 0 == story.subscription.received
    story.subscription._gather([delivery(1), delivery(2)])
    story.subscription._gather([delivery(3)])
    assert 3 == story.subscription.received


async def test_the_bytes_of_batches_are_those_of_their_bodies(story: SimpleNamespace) -> None:
    story.subscription._gather([delivery(1, b"x" * 3), delivery(2, b"x" * 5), delivery(3, b"x")])
    assert [3, 6] == [story.subscription.take(1).bytes, story.subscription.take(9).bytes]


async def test_cancelling_is_visible_at_once_asks_the_broker_once_and_ends_the_waiting(story: SimpleNamespace) -> None:
    waiting = asyncio.create_task(story.subscription.batch(9))
    await asyncio.sleep(0)
    cancelling = asyncio.create_task(story.subscription.cancel())
    assert not story.subscription.is_cancelling
    await cancelling
    assert story.subscription.is_cancelling
    assert await waiting is None
    await story.subscription.cancel()
    assert [("cancel", "tag")] == story.channel.asked


async def test_one_that_has_ended_is_not_cancelled(story: SimpleNamespace) -> None:
    story.subscription.end("lost")
    await story.subscription.cancel()
    assert [] == story.channel.asked


async def test_the_end_wakes_up_who_waits(story: SimpleNamespace) -> None:
    waiting = asyncio.create_task(story.subscription.batch(9))
    await asyncio.sleep(0)
    story.subscription.end("lost")
    async with asyncio.timeout(5):
        assert await waiting is None


async def test_acks_and_rejects_leave_by_the_tap_if_there_is_one(story: SimpleNamespace) -> None:
    if story.subscription._tapped is None:
        return
    story.channel.basic_ack = story.channel.basic_reject = None
    story.subscription._gather([delivery(1), delivery(2)])
    batch = story.subscription.take(9)
    await story.subscription.refuse(batch, batch.deliveries[1])
    await story.subscription.settle(batch)
    assert [("reject", 2, False), ("ack", 1, True)] == story.channel.asked


async def test_without_a_tap_nothing_waits_for_an_answer_to_an_ack(story: SimpleNamespace) -> None:
    if story.subscription._tapped:
        return
    waits: list[bool] = []

    async def asked(tag: int, *, wait: bool, **_: bool) -> None:
        waits.append(wait)

    story.channel.basic_ack = story.channel.basic_reject = asked
    story.subscription._gather([delivery(1), delivery(2)])
    batch = story.subscription.take(9)
    await story.subscription.refuse(batch, batch.deliveries[1])
    await story.subscription.settle(batch)
    assert [False, False] == waits


@pytest.mark.timeout(5)
async def test_after_a_batch_the_next_one_is_waited_for(story: SimpleNamespace) -> None:
    story.subscription._gather([delivery(1)])
    assert await story.subscription.batch(9)
    waiting = asyncio.create_task(story.subscription.batch(9))
    await asyncio.sleep(0)
    story.subscription._gather([delivery(2)])
    batch = await waiting
    assert [2] == [one.tag for one in batch.deliveries]


async def test_it_is_full_once_it_holds_what_the_broker_sends_ahead(opened: Opened) -> None:
    subscription = await opened.open()
    subscription._gather([delivery(tag) for tag in range(1, 7)])
    assert not subscription.is_full
    assert subscription.take(3)
    subscription._gather([delivery(7)])
    assert subscription.is_full, "what is out in batches is held too"


@pytest.mark.parametrize(("prefetch", "is_full"), [(0, False), (1, True)])
async def test_without_a_prefetch_it_is_never_full(prefetch: int, is_full: bool) -> None:
    subscription = Subscription(cast(Any, Channel()), "q", "tag", tapped=None, buffer_bytes=100, prefetch=prefetch)
    subscription._gather([delivery(1)])
    assert is_full is subscription.is_full


async def test_the_oldest_delivery_is_out_in_the_first_batch_or_else_the_first_that_gathered(opened: Opened) -> None:
    subscription = await opened.open()
    assert subscription.oldest is None
    first, second, third = (delivery(tag) for tag in (1, 2, 3))
    subscription._gather([first, second])
    assert first is subscription.oldest
    batches = subscription.take(2), (subscription._gather([third]), subscription.take(1))[1]
    assert first is subscription.oldest
    for batch, oldest in zip(batches, (third, None), strict=True):
        assert batch
        await subscription.settle(batch)
        assert oldest is subscription.oldest


async def test_the_first_delivery_is_waited_for_and_left_there(opened: Opened) -> None:
    subscription, first = await opened.open(), delivery(1)
    waiting = asyncio.create_task(subscription.first_within(60))
    await asyncio.sleep(0)
    subscription._notify()  # woken in vain
    await asyncio.sleep(0)
    assert not waiting.done()
    subscription._gather([first, delivery(2)])
    assert first is await waiting
    assert first is await subscription.first_within(60)
    assert 2 == subscription.held


async def test_no_first_delivery_comes_once_it_has_ended_or_in_time(opened: Opened) -> None:
    subscription = await opened.open()
    assert await subscription.first_within(0.001) is None
    subscription.end("closed")
    async with asyncio.timeout(20):
        assert await subscription.first_within(60) is None
