"""Thousands of messages in flight on a scripted channel: which count as confirmed, when there is room, what ends it."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pika
import pytest
from pika.spec import Basic

from invalidator.broker.publish import confirms as module
from invalidator.broker.publish.pipelined_publisher import WRITE_BYTES, OneWriteConnection, PipelinedPublisher
from invalidator.errors import UnconfirmedError, UnroutableError
from invalidator.settings import BrokerSettings


class Channel:
    """A channel that takes every message and confirms none by itself."""

    is_open = True

    def __init__(self) -> None:
        self.published: list[bytes] = []

    def basic_publish(self, exchange: str, key: str, body: bytes, properties: object, *, mandatory: bool) -> None:
        assert (exchange, key, mandatory) == ("product.updates", "", True)
        self.published.append(body)


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> PipelinedPublisher[int]:
    """Return a publisher with room for four messages, and again once three or fewer are in flight."""
    monkeypatch.setattr(module, "IN_FLIGHT", 4)
    counts: list[int] = []
    publisher = PipelinedPublisher[int](BrokerSettings(publish_timeout=0.1), name="test", confirmed=counts.append)
    publisher._confirms.channel = Channel()
    publisher._confirms.statements.is_known = True  # there is no log
    publisher.counts = counts  # type: ignore[attr-defined]
    return publisher


def confirmed(publisher: Any) -> int:
    return sum(publisher.counts)


def reports(publisher: PipelinedPublisher[int], method: Any) -> None:
    publisher._confirms.on_confirm(SimpleNamespace(method=method))


async def publish(publisher: PipelinedPublisher[int], count: int) -> None:
    for number in range(count):
        await publisher.publish(b"%d" % number, pika.BasicProperties(message_id=f"m{number}"), number)


async def waits(publisher: PipelinedPublisher[int], task: "asyncio.Task[None]") -> bool:
    await asyncio.sleep(0.01)
    return not task.done()


async def test_acks_are_counted_singly_and_up_to_a_tag_in_any_order(publisher: PipelinedPublisher[int]) -> None:
    await publish(publisher, 4)
    reports(publisher, Basic.Ack(3))
    assert confirmed(publisher) == 1
    reports(publisher, Basic.Ack(4, multiple=True))
    assert confirmed(publisher) == 4
    reports(publisher, Basic.Ack(4))
    assert confirmed(publisher) == 4, "once each"
    await publisher.flush()


async def test_a_message_without_room_waits_until_another_is_confirmed(publisher: PipelinedPublisher[int]) -> None:
    publishing = asyncio.create_task(publish(publisher, 5))
    assert await waits(publisher, publishing)
    assert len(publisher._confirms.channel.published) == 4
    reports(publisher, Basic.Ack(1))
    await publishing
    assert publisher._confirms.channel.published[-1] == b"4"


async def test_a_nack_ends_the_publishing_and_messages_in_flight_are_waited_for(
    publisher: PipelinedPublisher[int],
) -> None:
    await publish(publisher, 3)
    reports(publisher, Basic.Nack(1))
    with pytest.raises(UnconfirmedError, match="would not store"):
        await publish(publisher, 1)
    flushing = asyncio.create_task(publisher.flush())
    assert await waits(publisher, flushing)
    reports(publisher, Basic.Ack(3, multiple=True))
    with pytest.raises(UnconfirmedError, match="would not store"):
        await flushing
    assert (confirmed(publisher), len(publisher._confirms.channel.published)) == (2, 3)


async def test_the_ack_behind_a_return_confirms_nothing(publisher: PipelinedPublisher[int]) -> None:
    await publish(publisher, 1)
    publisher._confirms.on_return(None, None, pika.BasicProperties(message_id="m0"), b"")
    reports(publisher, Basic.Ack(1))
    with pytest.raises(UnroutableError, match="no queue is bound"):
        await publisher.flush()
    assert confirmed(publisher) == 0


async def test_the_acks_of_messages_that_were_not_returned_still_count(publisher: PipelinedPublisher[int]) -> None:
    await publish(publisher, 3)
    publisher._confirms.on_return(None, None, pika.BasicProperties(message_id="m1"), b"")
    reports(publisher, Basic.Ack(3, multiple=True))
    with pytest.raises(UnroutableError, match="no queue is bound"):
        await publisher.flush()
    assert confirmed(publisher) == 2


async def test_a_broker_in_an_alarm_is_named_as_such(publisher: PipelinedPublisher[int]) -> None:
    publisher._confirms._block(True)
    await publish(publisher, 1)
    with pytest.raises(UnconfirmedError, match="while it is in an alarm"):
        await publisher.flush()


async def test_a_broker_that_stays_silent_is_given_up(publisher: PipelinedPublisher[int]) -> None:
    await publish(publisher, 2)
    with pytest.raises(UnconfirmedError, match=r"did not confirm publishing to \"product.updates\" within 0\.1 s"):
        await publisher.flush()


async def test_a_lost_channel_is_not_waited_on(publisher: PipelinedPublisher[int]) -> None:
    await publish(publisher, 2)
    publisher._confirms.fail(UnconfirmedError("lost the broker"))
    publisher._confirms.channel.is_open = False
    async with asyncio.timeout(0.05):
        with pytest.raises(UnconfirmedError, match="lost the broker"):
            await publisher.flush()


async def test_items_leave_in_order_behind_confirmed_ones_only(publisher: PipelinedPublisher[int]) -> None:
    await publish(publisher, 4)
    reports(publisher, Basic.Ack(2))
    reports(publisher, Basic.Ack(4))
    assert [] == publisher.take_confirmed()
    reports(publisher, Basic.Ack(1))
    assert [0, 1] == publisher.take_confirmed()
    assert [(2, False), (3, True)] == publisher.left()


async def test_a_returned_and_a_nacked_message_are_left_though_the_broker_settles_them(
    publisher: PipelinedPublisher[int],
) -> None:
    await publish(publisher, 4)
    publisher._confirms.on_return(None, None, pika.BasicProperties(message_id="m1"), b"")
    reports(publisher, Basic.Ack(2, multiple=True))
    reports(publisher, Basic.Nack(3))
    reports(publisher, Basic.Ack(4))
    assert [0] == publisher.take_confirmed()
    assert [(1, False), (2, False), (3, True)] == publisher.left()


async def test_large_messages_fill_the_channel_by_their_bytes(
    publisher: PipelinedPublisher[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IN_FLIGHT_BYTES", 2)
    publishing = asyncio.create_task(publish(publisher, 3))
    assert await waits(publisher, publishing)
    reports(publisher, Basic.Ack(1))
    await publishing


class Wire:
    """A transport that notes what is written."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)


@pytest.fixture
async def connection() -> OneWriteConnection:
    """Return a connection to nobody."""
    connection = OneWriteConnection(pika.ConnectionParameters(), internal_connection_workflow=False)
    connection._transport = Wire()
    return connection


async def test_the_frames_of_one_turn_of_the_loop_are_written_at_once(connection: OneWriteConnection) -> None:
    connection._output_marshaled_frames([b"a", b"b"])
    connection._output_marshaled_frames([b"c"])
    assert [] == connection._transport.writes
    await asyncio.sleep(0)
    connection._output_marshaled_frames([b"d"])
    await asyncio.sleep(0)
    assert [b"abc", b"d"] == connection._transport.writes


async def test_many_bytes_do_not_wait_for_the_end_of_the_turn(connection: OneWriteConnection) -> None:
    connection._output_marshaled_frames([b"a" * WRITE_BYTES])
    assert [WRITE_BYTES] == [len(write) for write in connection._transport.writes]


async def test_frames_of_a_connection_that_is_lost_meanwhile_are_dropped(connection: OneWriteConnection) -> None:
    connection._output_marshaled_frames([b"a"])
    connection._transport = None
    connection._write()
    assert (0, []) == (connection._unwritten_bytes, connection._unwritten)
