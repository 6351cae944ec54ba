"""A cluster's queue as a pipeline's intake: batches over several connections, one after another."""

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pamqp import commands

from invalidator.broker.consume import queue_intake as module
from invalidator.broker.consume.queue_intake import QueueIntake
from invalidator.broker.consume.subscription import Batch, Subscription
from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.timestamp import stamp
from invalidator.errors import UnreachableError
from invalidator.runtime import metrics
from tests.test_subscription import Channel, delivery


class Lost(Channel):
    """A channel whose connection is gone, which aiormq has not noticed yet."""

    async def basic_ack(self, tag: int, *, multiple: bool, wait: bool) -> None:
        raise UnreachableError("gone")

    async def basic_reject(self, tag: int, *, requeue: bool, wait: bool) -> None:
        raise UnreachableError("gone")


def subscription(*tags: int, channel: Channel | None = None) -> Subscription:
    made = Subscription(cast(Any, channel or Channel()), "invalidator.eu", "tag", tapped=None, buffer_bytes=100)
    made._gather([delivery(tag) for tag in tags])
    return made


def taken(intake: QueueIntake) -> list[int] | None:
    batch = intake.take()
    return [each.tag for each in batch.deliveries] if batch else None


async def test_a_batch_has_no_more_events_than_it_may() -> None:
    intake = QueueIntake(batch_events=2)
    intake.add(subscription(1, 2, 3))
    assert [[1, 2], [3], None] == [taken(intake) for _ in range(3)]


async def test_what_a_new_connection_brings_comes_after_all_that_the_one_before_holds() -> None:
    intake, first, second = QueueIntake(1000), subscription(1), subscription(1, 2)
    intake.add(first)
    intake.add(second)
    assert [[1], None] == [taken(intake) for _ in range(2)], "the first may bring more"
    first.end("the channel was closed")
    assert [[1, 2], None] == [taken(intake) for _ in range(2)]


async def test_it_hands_out_until_it_is_to_end_and_nothing_is_left() -> None:
    intake, first = QueueIntake(1000), subscription(1)
    batches: list[list[int]] = []
    intake.on_ready = lambda: batches.extend(filter(None, iter(lambda: taken(intake), None)))
    handing_out = asyncio.create_task(intake.hand_out())
    await asyncio.sleep(0)
    intake.add(first)
    await asyncio.sleep(0)
    assert [[1]] == batches
    intake.end()
    await asyncio.sleep(0)
    assert not handing_out.done(), "what is held may become a batch"
    first._gather([delivery(2)])
    first.end("closed")
    intake.on_ready()
    async with asyncio.timeout(20):
        await handing_out
    assert [[1], [2]] == batches


async def test_what_cannot_be_settled_is_left_to_the_broker() -> None:
    intake = QueueIntake(1000)
    intake.add(subscription(1, 2, channel=Lost()))
    batch = intake.take()
    assert batch
    await intake.refuse(batch, batch.deliveries[0])
    await intake.settle(batch)


async def test_a_refused_delivery_is_rejected_and_its_batch_acknowledged() -> None:
    channel = Channel()
    intake = QueueIntake(1000)
    intake.add(subscription(1, 2, channel=channel))
    batch = intake.take()
    assert batch
    await intake.refuse(batch, batch.deliveries[0])
    await intake.settle(batch)
    assert [("reject", 1, False), ("ack", 2, True)] == channel.asked


async def test_the_age_of_a_batch_is_that_of_its_first_event_and_recorded_a_hundred_times_a_second_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ages: list[float] = []
    monkeypatch.setattr(metrics.EVENT_AGE, "observe", ages.append)
    now = datetime(2026, 5, 17, 9, tzinfo=UTC)
    clock = iter([0.0, 0.009, 0.02])
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: now.timestamp() + next(clock)))
    intake, source = QueueIntake(1000), subscription()
    for _ in range(3):
        await intake.settle(Batch([published(now - timedelta(seconds=5)), published(now)], source, 0))
    assert [5.0, 5.02] == [round(age, 3) for age in ages]


def published(at: datetime) -> Delivery:
    return Delivery(b"\x00" * 11, commands.Basic.Properties(headers=stamp(at)).marshal(), b"{}")
