"""The watch over a consumer: what it takes for lost, and when it gives up."""

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pamqp import commands

from invalidator.broker.consume import watch as module
from invalidator.broker.consume.session import Session
from invalidator.broker.consume.subscription import Subscription
from invalidator.broker.consume.watch import REBUILDS, Inspected, Watch
from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.timestamp import stamp
from invalidator.errors import InvalidatorError, UnreachableError


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.001)
    monkeypatch.setattr(module, "BACKLOG_SECONDS", 0.001)


def subscription() -> Subscription:
    return Subscription(cast(Any, SimpleNamespace(number=1)), "invalidator.eu", "tag", tapped=None, buffer_bytes=100)


class Queue:
    """A queue whose inspections are scripted; the last one is repeated."""

    def __init__(self, *inspected: Inspected | Exception) -> None:
        self._inspected = list(inspected)
        self.inspections = 0

    async def inspect(self, _: str) -> Inspected:
        self.inspections += 1
        found = self._inspected.pop(0) if len(self._inspected) > 1 else self._inspected[0]
        if isinstance(found, Exception):
            raise found
        return found


def watch(*, on_consuming: Any = lambda: None) -> Watch:
    return Watch(on_consuming=on_consuming)


async def end_of(watch: Watch, queue: Queue, watched: Subscription) -> str:
    return await watch.until_the_end(cast(Session, queue), watched)


async def test_a_queue_that_is_gone_ends_the_subscription_and_is_a_loss_of_the_queue() -> None:
    watched = subscription()
    assert "the queue is gone" == await end_of(watch(), Queue((0, 1), None), watched)
    assert watched.lost_its_queue


async def test_a_forgotten_consumer_ends_the_subscription_but_not_the_queue() -> None:
    watched = subscription()
    reason = await end_of(watch(), Queue((0, 1), (0, 0)), watched)
    assert "the broker does not know the consumer any more" == reason
    assert not watched.lost_its_queue


async def test_a_consumer_that_gets_nothing_of_what_waits_ends_at_the_second_check() -> None:
    queue = Queue((7, 1))
    assert "7 messages wait in the queue and none is delivered" == await end_of(watch(), queue, subscription())
    assert 2 == queue.inspections


async def test_an_inspection_that_fails_ends_nothing_by_itself() -> None:
    queue, watched = Queue(UnreachableError("closing")), subscription()
    watching = asyncio.create_task(end_of(watch(), queue, watched))
    while queue.inspections < 3:
        await asyncio.sleep(0)
    watched.end("the channel was closed")
    assert "the channel was closed" == await watching


async def test_while_the_consumer_is_being_cancelled_nothing_is_inspected() -> None:
    alive = 0

    def count() -> None:
        nonlocal alive
        alive += 1

    queue, watched = Queue((0, 0)), subscription()
    watched.is_cancelling = True
    watching = asyncio.create_task(end_of(watch(on_consuming=count), queue, watched))
    while alive < 3:
        await asyncio.sleep(0.001)
    watched.end("closed")
    assert ("closed", 0) == (await watching, queue.inspections)


async def test_consumers_that_are_lost_again_and_again_are_given_up_and_one_that_lasts_is_a_new_start() -> None:
    watched = watch()
    for _ in range(REBUILDS):
        await end_of(watched, Queue((0, 0)), subscription())
    watched.assert_consumers_last("invalidator.eu")
    await end_of(watched, Queue((0, 1), (0, 0)), subscription())
    watched.assert_consumers_last("invalidator.eu")
    for _ in range(REBUILDS):
        await end_of(watched, Queue((0, 0)), subscription())
    with pytest.raises(
        InvalidatorError, match=r'queue "invalidator.eu" answer, but 5 new consumers in a row were gone'
    ):
        watched.assert_consumers_last("invalidator.eu")


def published(at: datetime) -> Delivery:
    return Delivery(b"\x00" * 11, commands.Basic.Properties(headers=stamp(at)).marshal(), b"{}")


async def test_messages_that_vanish_are_reported_and_consuming_goes_on() -> None:
    reasons = list[str]()
    watched = subscription()
    watched._gather([published(datetime.now(UTC))])
    watching = asyncio.create_task(
        end_of(Watch(on_consuming=lambda: None, on_purged=reasons.append), Queue((90, 1), (20, 1)), watched)
    )
    while not reasons:
        await asyncio.sleep(0.001)
    assert ["70 messages vanished from the queue: it was purged"] == reasons
    assert not watched.ended.done()
    watched.end("closed")
    await watching


async def test_events_are_settled_up_to_the_oldest_one_that_was_held_before_the_queue_was_inspected() -> None:
    """An event that came since may be newer than messages that were purged meanwhile, and the gap begins here."""
    nine, ten = datetime(2026, 5, 17, 9, tzinfo=UTC), datetime(2026, 5, 17, 10, tzinfo=UTC)
    positions = list[datetime | None]()

    class Purged(Queue):
        async def inspect(self, name: str) -> Inspected:
            watched._gathered.clear()
            watched._gather([published(ten)])
            return await super().inspect(name)

    def settled_until(position: datetime | None, _: bool) -> None:
        positions.append(position)
        watched.end("closed")

    watched = subscription()
    watched._gather([published(nine)])
    await end_of(Watch(on_consuming=lambda: None, on_settled=settled_until), Purged((90, 1)), watched)
    (position,) = positions
    assert position
    assert nine.hour == (position + timedelta(seconds=1)).hour
