"""Guards of the watch over a consumer, at its true pace: each test is red without the line that it names."""

import asyncio
import gc
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from pamqp import commands

from invalidator.broker.consume.session import Session
from invalidator.broker.consume.subscription import Subscription
from invalidator.broker.consume.watch import IN_FLIGHT_SECONDS, REBUILDS, Backlog, Inspected, Watch
from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.timestamp import stamp
from invalidator.errors import InvalidatorError, UnreachableError
from invalidator.runtime import metrics
from tests.virtual_time import in_virtual_time

NINE = datetime(2026, 5, 17, 9, tzinfo=UTC)


def now() -> float:
    return round(asyncio.get_running_loop().time(), 3)


class Scene:
    """A watch over one subscription, and what it reports, with the seconds since its beginning."""

    def __init__(self, *inspected: Inspected | Exception, prefetch: int = 0, takes: float = 0.0) -> None:
        #: The answers to inspections; the last one is repeated.
        self._inspected = list(inspected)
        self._takes = takes
        self.subscription = Subscription(
            cast(Any, None), "invalidator.eu", "tag", tapped=None, buffer_bytes=100, prefetch=prefetch
        )
        self.inspections: list[float] = []
        self.settled: list[tuple[float, datetime | None, bool]] = []
        self.purged: list[str] = []
        self.alive: list[float] = []
        self.watch = Watch(
            on_consuming=lambda: self.alive.append(now()),
            on_settled=lambda until, is_everything: self.settled.append((now(), until, is_everything)),
            on_purged=self.purged.append,
        )

    async def inspect(self, _: str) -> Inspected:
        self.inspections.append(now())
        self.inspecting()
        await asyncio.sleep(self._takes)
        found = self._inspected.pop(0) if len(self._inspected) > 1 else self._inspected[0]
        if isinstance(found, Exception):
            raise found
        return found

    def inspecting(self) -> None:
        """Do whatever a test puts in its place, at the beginning of each inspection."""

    def gather(self, count: int) -> None:
        delivery = Delivery(b"\x00" * 11, commands.Basic.Properties(headers=stamp(NINE)).marshal(), b"{}")
        self.subscription._gather([delivery] * count)

    async def play(self, seconds: float = 60) -> str:
        """Watch until the subscription ends, or end it after these seconds."""
        watching = asyncio.create_task(self.watch.until_the_end(cast(Session, self), self.subscription))
        await asyncio.wait([watching], timeout=seconds)
        if not watching.done():
            self.subscription.end("the scene is over")
        return await watching


@in_virtual_time
async def test_an_idle_queue_is_inspected_every_three_seconds() -> None:
    scene = Scene((0, 1))
    await scene.play(10)
    assert [0.5, 3.5, 6.5, 9.5] == scene.inspections
    assert 4 == scene.watch.checks


@in_virtual_time
async def test_a_queue_in_which_messages_wait_is_inspected_twice_a_second() -> None:
    scene = Scene((5, 1))
    scene.gather(1)
    await scene.play(2)
    assert [0.5, 1.0, 1.7] == scene.inspections, "the second answer waits for what is on its way"


@in_virtual_time
async def test_a_queue_whose_consumer_holds_all_it_may_is_inspected_twice_a_second() -> None:
    scene = Scene((0, 1), prefetch=3)
    scene.gather(3)
    await scene.play(2)
    assert [0.5, 1.0, 1.5] == scene.inspections


@in_virtual_time
async def test_a_broker_that_takes_long_to_answer_is_asked_once_and_lost_only_with_its_connection() -> None:
    scene = Scene((0, 1), takes=8)
    assert "the scene is over" == await scene.play(8.4)
    assert [0.5] == scene.inspections
    assert [0.0, 3.5, 7.0] == scene.alive, "the consumer counts as consuming meanwhile"


@in_virtual_time
async def test_everything_that_came_is_settled_up_to_the_beginning_of_a_check_that_finds_nothing() -> None:
    before, scene = datetime.now(UTC), Scene((0, 1), takes=0.1)
    await scene.play(1)
    ((seconds, until, is_everything),) = scene.settled
    assert (0.6, True) == (seconds, is_everything)
    assert until
    assert before <= until <= datetime.now(UTC)


@in_virtual_time
async def test_beside_other_consumers_nobody_knows_of_everything() -> None:
    scene = Scene((0, 2))
    await scene.play(1)
    assert [False] == [is_everything for _, _, is_everything in scene.settled]


@in_virtual_time
async def test_what_is_held_is_settled_up_to_its_oldest_event_and_never_everything() -> None:
    scene = Scene((0, 1))
    scene.gather(1)
    await scene.play(1)
    assert [(0.5, NINE, False)] == scene.settled


@in_virtual_time
async def test_nothing_is_said_of_messages_that_wait_and_have_not_come() -> None:
    scene = Scene((3, 1))
    assert "3 messages wait in the queue and none is delivered" == await scene.play()
    assert [] == scene.settled


@in_virtual_time
async def test_a_consumer_that_is_lost_says_nothing_of_what_is_settled() -> None:
    scene = Scene((0, 0))
    await scene.play()
    assert ([0.5], []) == (scene.inspections, scene.settled)


@in_virtual_time
async def test_nothing_vanished_that_was_on_its_way_during_the_check() -> None:
    scene = Scene((90, 1), (20, 1))

    def deliver() -> None:
        if len(scene.inspections) == 2:
            asyncio.get_running_loop().call_later(IN_FLIGHT_SECONDS / 2, scene.gather, 70)

    scene.inspecting = deliver  # type: ignore[method-assign]
    scene.gather(1)
    await scene.play(1.6)
    assert [] == scene.purged


@in_virtual_time
async def test_beside_other_consumers_nothing_vanishes() -> None:
    scene = Scene((90, 2), (20, 2))
    scene.gather(1)
    await scene.play(2)
    assert [] == scene.purged


@in_virtual_time
async def test_the_backlog_is_a_metric() -> None:
    scene = Scene((17, 2))
    scene.gather(1)
    await scene.play(1)
    assert 17 == metrics.BACKLOG._value.get()


async def lost_consumers(watch: Watch, count: int) -> None:
    for _ in range(count):
        await seen_by(watch, Scene((0, 0)))


async def seen_by(watch: Watch, scene: Scene) -> str:
    scene.watch = watch
    return await scene.play()


@pytest.mark.parametrize(
    "answer", [UnreachableError("closing"), None, (0, 1)], ids=["no answer", "no queue", "a consumer that lasts"]
)
def test_consumers_before_any_other_finding_do_not_count_as_rebuilt(answer: Inspected | Exception) -> None:
    @in_virtual_time
    async def play() -> None:
        watch = Watch(on_consuming=lambda: None)
        await lost_consumers(watch, REBUILDS)
        await seen_by(watch, Scene(answer))
        await lost_consumers(watch, REBUILDS)
        watch.assert_consumers_last("invalidator.eu")
        await lost_consumers(watch, 1)
        with pytest.raises(InvalidatorError):
            watch.assert_consumers_last("invalidator.eu")

    play()


@in_virtual_time
async def test_an_inspection_that_fails_after_the_end_is_nobodys_error() -> None:
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    scene = Scene(UnreachableError("closing"), takes=5)
    await scene.play(1)
    await asyncio.sleep(10)
    gc.collect()
    assert ([0.5], []) == (scene.inspections, errors)


def test_messages_that_waited_and_came_have_not_vanished() -> None:
    backlog = Backlog()
    assert [0, 0, 0, 4] == [
        backlog.lost(10, 0, 0, alone=True),
        backlog.lost(7, 3, 3, alone=True),
        backlog.lost(9, 3, 3, alone=True),
        backlog.lost(4, 4, 4, alone=True),
    ]


def test_what_waited_is_not_missed_once_other_consumers_come_or_are_gone() -> None:
    backlog = Backlog()
    assert [0, 0, 2] == [
        backlog.lost(90, 0, 0, alone=False),
        backlog.lost(5, 0, 0, alone=True),
        backlog.lost(3, 0, 0, alone=True),
    ]
    for is_first_alone in (True, False):
        backlog = Backlog()
        assert [0, 0] == [
            backlog.lost(90, 0, 0, alone=is_first_alone),
            backlog.lost(0, 0, 0, alone=not is_first_alone),
        ]
