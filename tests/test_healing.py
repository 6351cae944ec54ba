"""Healing without a broker: positions, gaps that cover others, purges, and the events of a log up to a mark."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from pamqp import commands

from invalidator.broker.consume.session import Session
from invalidator.broker.consume.subscription import Batch, Subscription
from invalidator.broker.consume.watch import Backlog
from invalidator.broker.event_log import MARK, MISSED_SINCE, Beginning, Hole, events_before, offset_in, without_offset
from invalidator.broker.gap import Gap, Healing
from invalidator.broker.open_gaps import REMEMBERED, OpenGaps, superfluous
from invalidator.broker.positions import Position, earliest
from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.timestamp import stamp
from invalidator.worker.healer import missed_within
from invalidator.worker.log_intake import LogIntake
from tests.virtual_time import in_virtual_time

NINE = datetime(2026, 5, 17, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)


def gap(since: datetime | None, until: datetime, *, read_at: datetime | None = None, **more: Any) -> Gap:
    return Gap(since, until, "deleted", Healing(3, 0.5, read_at) if read_at else None, **more)


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([], None),
        ([Position("a", NINE), Position("b", NINE + HOUR)], NINE),
        ([Position("a", NINE), Position("b", NINE + HOUR), Position("a", NINE + 2 * HOUR)], NINE + HOUR),
        ([Position("gone", NINE), Position("b", NINE + HOUR, is_everything=True)], NINE + HOUR),
    ],
)
def test_a_cluster_is_settled_up_to_the_earliest_of_its_workers_last_positions(
    positions: list[Position], expected: datetime | None
) -> None:
    assert expected == earliest(positions)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (gap(NINE, NINE + HOUR), None),
        (gap(NINE, NINE + 3 * HOUR), gap(NINE + 2 * HOUR, NINE + 3 * HOUR)),
        (gap(NINE + 3 * HOUR, NINE + 4 * HOUR), gap(NINE + 3 * HOUR, NINE + 4 * HOUR)),
        (gap(NINE - HOUR, NINE + HOUR), gap(NINE - HOUR, NINE + HOUR)),
        (gap(None, NINE + HOUR), gap(None, NINE + HOUR)),
        (gap(NINE, NINE + HOUR, is_asked_for=True), gap(NINE, NINE + HOUR, is_asked_for=True)),
    ],
)
def test_of_a_gap_that_begins_within_what_was_read_for_another_one_only_the_rest_is_left(
    other: Gap, expected: Gap | None
) -> None:
    assert expected == other.rest_after(gap(NINE, NINE + HOUR, read_at=NINE + 2 * HOUR))


def test_a_gap_of_unknown_beginning_covers_all_that_began_before_it_was_read() -> None:
    healed = gap(None, NINE, read_at=NINE)
    assert gap(NINE, NINE + HOUR) == gap(None, NINE + HOUR).rest_after(healed)
    assert gap(NINE + HOUR, NINE + 2 * HOUR) == gap(NINE + HOUR, NINE + 2 * HOUR).rest_after(healed)


def test_an_open_gap_and_a_replay_cover_none() -> None:
    other = gap(NINE, NINE + HOUR)
    assert other == other.rest_after(gap(NINE, NINE + HOUR))
    assert other == other.rest_after(gap(NINE, NINE + HOUR, read_at=NINE + HOUR, is_asked_for=True))


def open_gaps(*gaps: Gap) -> Gap | None:
    return OpenGaps(cast(Any, None), list(enumerate(gaps))).gap


def test_open_gaps_are_healed_together_and_a_replay_alone() -> None:
    first, second = gap(NINE, NINE + HOUR), gap(NINE + HOUR, NINE + 2 * HOUR)
    replay = gap(NINE - HOUR, NINE, is_asked_for=True)
    assert gap(NINE, NINE + 2 * HOUR) == open_gaps(replay, first, second)
    assert replay == open_gaps(replay, gap(NINE, NINE, read_at=NINE + HOUR))
    assert gap(None, NINE + HOUR) == open_gaps(first, gap(None, NINE))


def test_a_gap_that_was_healed_with_another_is_not_healed_again() -> None:
    assert open_gaps(gap(NINE, NINE + HOUR, read_at=NINE + 2 * HOUR), gap(NINE, NINE + HOUR)) is None


def test_only_the_rest_of_a_gap_that_was_healed_in_part_is_healed() -> None:
    healed = gap(NINE, NINE + HOUR, read_at=NINE + HOUR)
    assert gap(NINE + HOUR, NINE + 2 * HOUR) == open_gaps(healed, gap(NINE, NINE + 2 * HOUR))


def test_of_healed_gaps_the_last_few_are_remembered_and_of_open_ones_all() -> None:
    stored = [gap(NINE, NINE, read_at=NINE + n * HOUR) for n in reversed(range(REMEMBERED + 2))]
    stored += [gap(NINE, NINE), replace(stored[0], healing=Healing(0, 0.0, NINE, log_begins=NINE))]
    assert {REMEMBERED, REMEMBERED + 1} == superfluous(enumerate(stored))


def test_a_gap_whose_events_were_never_published_is_left_to_a_flush() -> None:
    unpublished, lost = gap(None, NINE + HOUR, is_unpublished=True), gap(NINE, NINE + HOUR)
    assert (None, lost) == (open_gaps(unpublished), open_gaps(unpublished, lost))
    assert (True, False) == (unpublished.may_have_lost, unpublished.is_healed)


@pytest.mark.parametrize(
    ("ready", "received", "alone", "expected"),
    [(0, 40, True, 60), (60, 40, True, 0), (0, 100, True, 0), (0, 40, False, 0), (90, 40, True, 0)],
)
def test_messages_that_are_neither_there_nor_received_were_purged(
    ready: int, received: int, alone: bool, expected: int
) -> None:
    backlog = Backlog()
    assert 0 == backlog.lost(100, 0, 0, alone=True)
    assert expected == backlog.lost(ready, received, received, alone=alone)


def message(type: str | None = None, id: str | None = None, headers: Any = None) -> Delivery:
    properties = commands.Basic.Properties(message_type=type, message_id=id, headers=headers)
    return Delivery(b"\x00" * 11, properties.marshal(), b"{}")


class Log:
    """A session whose log has these messages, and its subscription."""

    def __init__(self, *messages: Delivery) -> None:
        self.messages = list(messages)
        self.settled: list[int] = []
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.on_ready: Any = None

    async def subscribe(self, _: str, *, on_ready: Any, **__: Any) -> Subscription:
        self.on_ready = on_ready
        return cast(Subscription, self)

    async def first_within(self, _: float) -> Delivery | None:
        return self.messages[0] if self.messages else None

    def take(self, limit: int) -> Batch | None:
        taken, self.messages = self.messages[:limit], self.messages[limit:]
        return Batch(taken, cast(Subscription, self), 0) if taken else None

    async def settle(self, batch: Batch) -> None:
        self.settled.append(len(batch.deliveries))


async def reading(log: Log, *, rate: int = 1_000_000) -> LogIntake:
    intake = LogIntake(mark="ours", rate=rate, batch_events=1000, is_wanted=lambda delivery: delivery is not UNWANTED)
    await intake.open(cast(Session, log), "invalidator.log", {})
    return intake


UNWANTED = message("product_updated", "unwanted")


async def test_a_log_is_read_up_to_the_mark_and_without_the_marks_of_others() -> None:
    log = Log(message("a"), message(MARK, "another"), UNWANTED, message("b"), message(MARK, "ours"), message("later"))
    intake = await reading(log)
    batch = intake.take()
    assert batch
    assert ["a", "b"] == [delivery.meaning()[0] for delivery in batch.deliveries]
    await intake.hand_out()
    assert (None, None, 2) == (intake.take(), intake.failure, intake.events)
    await intake.settle(batch)
    assert [6] == log.settled


def test_events_of_one_publisher_have_one_header_wherever_they_are_in_the_log() -> None:
    def header(offset: int) -> bytes:
        headers: Any = {"timestamp_in_ms": 1_767_225_600_000, "x-stream-offset": 10_000_000_000 + offset, "tenant": "a"}
        return commands.Basic.Properties(headers=headers, message_type="product_updated").marshal()

    one, other = without_offset(header(1)), without_offset(header(2))
    assert (10_000_000_001, None) == (offset_in(header(1)), offset_in(b"plain"))
    assert (True, len(header(1))) == (one == other, len(one))
    assert b"plain" == without_offset(b"plain")


@pytest.mark.parametrize(
    ("begins", "since", "read_from", "expected"),
    [
        (Beginning(NINE, 5), NINE, 5, True),
        (Beginning(NINE + HOUR, 5), NINE, 5, False),
        (Beginning(None, 5), NINE, 6, True),
        (Beginning(NINE + HOUR, 5), NINE, 6, True),
        (Beginning(None, 5), NINE, 5, False),
        (Beginning(None, 5), NINE, None, False),
        (Beginning(NINE, 5), None, 6, False),
    ],
)
def test_a_log_reaches_back_to_a_time_if_it_began_before_or_if_reading_from_then_begins_behind_its_first_event(
    begins: Beginning, since: datetime | None, read_from: int | None, expected: bool
) -> None:
    assert expected == begins.is_before(since, read_from)


def test_a_mark_says_since_when_the_log_may_have_missed_events() -> None:
    mark = message(MARK, "another", stamp(NINE + HOUR) | {MISSED_SINCE: int(NINE.timestamp() * 1000)})
    found = events_before("ours", [mark, message("a"), message(MARK, "ours", stamp(NINE))])
    (hole,) = found.holes
    assert (1, True, NINE) == (len(found.events), found.is_at_the_mark, hole.since)
    assert abs(hole.until - NINE - HOUR) < timedelta(seconds=1)


@pytest.mark.parametrize("since", [-1, 0, 2**62, "today", int((NINE + 2 * HOUR).timestamp() * 1000)])
def test_a_mark_with_a_time_that_no_worker_wrote_says_nothing(since: object) -> None:
    mark = message(MARK, "another", stamp(NINE + HOUR) | {MISSED_SINCE: since})
    assert [] == events_before("ours", [mark]).holes


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (NINE, NINE + HOUR, (NINE, NINE + HOUR)),
        (None, NINE, (NINE, NINE + HOUR)),
        (NINE + 2 * HOUR, NINE + 3 * HOUR, None),
        (NINE - 2 * HOUR, NINE - HOUR, None),
    ],
)
def test_a_hole_of_the_log_within_a_gap_keeps_it_from_being_healed(
    since: datetime | None, until: datetime, expected: tuple[datetime, datetime] | None
) -> None:
    found = missed_within(gap(since, until), [Hole(NINE, NINE + HOUR)])
    assert expected == found
    healed = replace(gap(since, until), healing=Healing(3, 0.5, until, missed=found))
    assert (expected is None, expected is not None) == (healed.is_healed, healed.may_have_lost)
    assert (expected is not None) == ("when the broker came back before its log" in healed.story)


async def test_a_log_that_ends_before_the_mark_was_not_read() -> None:
    log = Log(message("a"))
    intake = await reading(log)
    assert intake.take()
    log.ended.set_result("the channel was closed")
    log.on_ready()
    await intake.hand_out()
    assert "the channel was closed" == intake.failure


async def test_a_dead_letter_that_cannot_be_stored_ends_the_reading() -> None:
    intake = await reading(Log(message("a")))
    batch = intake.take()
    assert batch
    await intake.refuse(batch, batch.deliveries[0])
    await intake.hand_out()
    assert "a dead letter cannot be stored" == intake.failure


@in_virtual_time
async def test_no_more_events_are_taken_than_the_rate_allows() -> None:
    intake = await reading(Log(*[message("a")] * 500, message(MARK, "ours")), rate=100)

    def take_all() -> None:
        while intake.take():
            pass

    intake.on_ready = take_all
    started = asyncio.get_running_loop().time()
    await intake.hand_out()
    assert 500 == intake.events
    assert 4.9 < asyncio.get_running_loop().time() - started < 5.2
