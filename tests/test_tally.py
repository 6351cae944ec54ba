"""The tally without a broker: numbers of publishers, their statements, and what of it a log lacks."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, header

from invalidator.broker.event_log import MARK
from invalidator.broker.messages import STATEMENT, Statement
from invalidator.broker.publish.numbers import Numbers
from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.header import FLAGS_AT, Form, forms, learn
from invalidator.broker.wire.number import NUMBER, in_text, number_of
from invalidator.broker.wire.timestamp import MILLISECONDS
from invalidator.worker.tally import Missing, Tally

EPOCH, OTHER = "9f3a2c11d04b", "000000000000"
#: Of November 2026, as events of our publishers have them.
NOW = 1_795_000_000_000


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def delivery(
    body: bytes = b"", *, id: str = "event", type: str = "product_updated", number: str = "", app_id: str = ""
) -> Delivery:
    headers: dict[str, Any] = {MILLISECONDS: NOW} | ({NUMBER: number} if number else {})
    given = commands.Basic.Properties(headers=headers, message_id=id, message_type=type, app_id=app_id or None)
    return Delivery(b"", header.ContentHeader(properties=given).marshal()[FLAGS_AT:], body)


def event(number: int, epoch: str = EPOCH, *, id: str = "event") -> Delivery:
    return delivery(id=id, number=in_text(epoch, number))


def statement(
    first: int, last: int, *, void: Sequence[tuple[int, int]] = (), age: float = 1.0, id: str = "statement"
) -> Delivery:
    stated = Statement("shop", EPOCH, first, last, list(void), age)
    return delivery(msgspec.json.encode(stated), id=id, type=STATEMENT)


def mark(id: str) -> Delivery:
    return delivery(id=id, type=MARK)


def judging(clock: Clock | None = None) -> Tally:
    tally = Tally("read", "mark", clock=clock or Clock())
    assert [] == list(tally.take([event(1, OTHER, id="read")]))
    return tally


def ranges(missing: list[Missing]) -> list[tuple[int, int]]:
    return [each for found in missing for each in found.ranges]


def missing(*log: Delivery) -> list[tuple[int, int]]:
    return ranges(list(judging().take(log)))


def test_what_is_stated_and_was_not_read_before_is_missing() -> None:
    assert [(2, 3), (5, 5)] == missing(event(1), event(4), statement(1, 5))
    assert [] == missing(event(1), event(2), statement(1, 2))


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"\xff", b"[" * 5000, msgspec.json.encode(Statement("shop", EPOCH, 1, 9, [], 1e30))]
)
def test_a_statement_that_no_publisher_of_ours_made_ends_nothing(body: bytes) -> None:
    assert [] == missing(delivery(body, type=STATEMENT))
    assert [(2, 2)] == missing(event(1), delivery(body, type=STATEMENT), statement(1, 2))


def test_what_is_not_stated_is_not_missing() -> None:
    assert [] == missing(event(1), event(4), statement(1, 1), event(5))


def test_what_a_statement_does_not_name_yet_is_missing_once_the_next_one_does() -> None:
    assert [(2, 2)] == missing(event(1), event(3), statement(1, 1), statement(2, 3))
    assert [(6, 6)] == missing(event(7), event(5), statement(1, 4, void=[(1, 4)]), statement(5, 7))


def test_a_publisher_of_which_nothing_was_read_is_missing_as_a_whole() -> None:
    assert [(1, 3)] == missing(statement(1, 3))


def test_numbers_may_come_in_any_order() -> None:
    assert [(4, 4)] == missing(event(3), event(1), event(6), event(5), event(2), statement(1, 6))


def test_void_numbers_are_not_missing_whether_they_were_read_or_not() -> None:
    assert [(5, 5)] == missing(event(1), event(3), statement(1, 5, void=[(2, 4)]))


def test_numbers_are_named_once() -> None:
    log = [event(1), event(3), statement(1, 3), event(4), statement(4, 4), event(6), statement(5, 6)]
    assert [(2, 2), (5, 5)] == missing(*log)


def test_a_statement_that_was_lost_is_made_up_for_by_the_next_one() -> None:
    assert [(3, 3)] == missing(event(1), statement(1, 1), event(2), event(4), event(5), statement(5, 5))


def test_a_reader_that_begins_judges_only_behind_the_mark() -> None:
    tally = Tally("", "begin", clock=Clock())
    log = [event(2), statement(1, 2), event(4), mark("begin"), statement(3, 4)]
    assert [(3, 3)] == ranges(list(tally.take(log)))


def test_for_a_reader_that_follows_none_a_statement_that_reaches_behind_its_mark_is_judged_from_what_was_read() -> None:
    clock = Clock()
    tally = Tally("", "begin", clock=clock)
    assert [] == list(tally.take([mark("begin")]))
    clock.now = 5.0
    assert [(3, 3)] == ranges(list(tally.take([event(2), event(4), statement(1, 4, age=5.1)])))
    another = Statement("shop", OTHER, 1, 2, age=4.9)
    assert [(1, 2)] == ranges(list(tally.take([delivery(msgspec.json.encode(another), type=STATEMENT)])))


def test_a_reader_goes_on_behind_the_message_that_was_read_last() -> None:
    tally = Tally("read", "begin", clock=Clock())
    log = [event(2), statement(1, 2), event(4, id="read"), statement(3, 4), mark("begin"), event(5, id="next")]
    assert [(3, 3)] == ranges(list(tally.take(log)))
    assert ("next", 3) == (tally.read, tally.events)


def test_a_statement_that_reaches_far_back_is_judged_from_the_first_number_that_was_read() -> None:
    assert [(7, 7)] == missing(event(6), event(8), statement(1, 8, age=40.0))
    log = [event(1), statement(1, 1), event(8), statement(2, 8, age=40.0)]
    assert [(2, 7)] == missing(*log), "of a publisher that was read before everything is known"


def test_a_loss_has_its_publisher_and_its_times() -> None:
    (found,) = judging().take([event(1), statement(1, 3, age=2.5)])
    assert ("shop", 2, "2 to 3") == (found.publisher, found.count, found.numbers)
    assert 2.5 == (found.until - found.since).total_seconds()
    assert '2 events of "shop" were confirmed and are not in the log: numbers 2 to 3' == str(found)


def test_a_publisher_that_stated_nothing_for_long_is_forgotten() -> None:
    clock = Clock()
    tally = judging(clock)
    list(tally.take([event(1), event(3)]))
    clock.now = 601.0
    tally.forget_silent()
    assert [] == list(tally.take([statement(1, 3, age=610.0)]))


def test_publishers_without_numbers_are_named() -> None:
    tally = judging()
    list(tally.take([event(1)]))
    assert [] == tally.unnumbered
    list(tally.take([delivery(app_id="debezium")]))
    assert ["debezium"] == tally.unnumbered


def test_a_statement_of_another_version_says_nothing() -> None:
    assert [] == missing(delivery(b"[]", type=STATEMENT), event(1))


class TestNumbers:
    def test_each_number_is_stated_once_up_to_the_first_in_flight(self) -> None:
        numbers = Numbers("shop", clock=Clock())
        assert [1, 2, 3, 4] == [numbers.take() for _ in range(4)]
        for number in (1, 2, 4):
            numbers.settled(number)
        stated = numbers.statement()
        assert stated
        assert (1, 2) == (stated.first, stated.last)
        numbers.stored(stated)
        assert numbers.statement() is None
        assert not numbers.are_stated
        numbers.settled(3, is_void=True)
        for _ in range(2):  # until it is stored
            stated = numbers.statement()
            assert stated
            assert (3, 4, [(3, 3)]) == (stated.first, stated.last, stated.void)
        numbers.stored(stated)
        assert numbers.are_stated

    def test_what_is_void_is_stated_when_its_turn_comes(self) -> None:
        numbers = Numbers("shop", clock=Clock())
        for number in (numbers.take(), numbers.take(), numbers.take()):
            if number != 2:
                numbers.settled(number, is_void=number == 3)
        first = numbers.statement()
        assert first
        numbers.stored(first)
        numbers.settled(2)
        second = numbers.statement()
        assert second
        assert ([], [(3, 3)]) == (first.void, second.void)

    def test_of_several_outcomes_the_first_counts(self) -> None:
        numbers = Numbers("shop", clock=Clock())
        numbers.settled(numbers.take())
        numbers.settled(1, is_void=True)
        stated = numbers.statement()
        assert stated
        assert [] == stated.void

    def test_a_statement_is_due_a_second_after_the_first_number_and_after_the_last_statement(self) -> None:
        clock = Clock()
        numbers = Numbers("shop", clock=clock)
        assert not numbers.is_due()
        clock.now = 5.0
        numbers.settled(numbers.take())
        assert not numbers.is_due()
        clock.now = 6.0
        assert numbers.is_due()
        numbers.statement()
        assert not numbers.is_due()

    def test_a_statement_says_since_when_at_most_its_numbers_were_taken(self) -> None:
        clock = Clock()
        numbers = Numbers("shop", clock=clock)
        ages = []
        for second in range(1, 6):
            clock.now = float(second)
            numbers.settled(numbers.take())
            numbers.take() if second == 3 else None
            stated = numbers.statement()
            ages.append(stated.age if stated else None)
            if stated:
                numbers.stored(stated)
        assert [0.0, 0.0, 0.0, None, None] == ages
        numbers.settled(4)
        stated = numbers.statement()
        assert stated
        assert 2.0 == stated.age


def test_events_with_numbers_have_one_form_and_their_own_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    forms.clear()
    learned: list[bytes] = []

    def counted(header: bytes) -> Form:
        learned.append(header)
        return learn(header)

    monkeypatch.setattr("invalidator.broker.wire.delivery.learn", counted)
    events = [event(number, id=f"event-{number}") for number in range(1, 6)]
    assert [f"event-{number}" for number in range(1, 6)] == [each.meaning()[2] for each in events]
    assert {"product_updated"} == {each.meaning()[0] for each in events}
    assert [events[0].header] == learned
    assert (EPOCH.encode(), 5) == number_of(events[4].header)


@given(st.data())
def test_exactly_what_was_confirmed_stated_and_lost_is_missing(data: st.DataObject) -> None:
    """Publish from several connections in any order; lose any event, any statement, and any ack of one."""
    numbers, clock = Numbers("shop", clock=Clock()), Clock()
    tally = judging(clock)
    flying: list[int] = []
    lost, found = set[int](), list[tuple[int, int]]()
    stated_through = 0
    for step in data.draw(st.lists(st.sampled_from("ttttcccvs"), max_size=60)):
        if step == "t":
            flying.append(numbers.take())
        elif step == "s":
            if (made := numbers.statement()) and data.draw(st.booleans()):
                if data.draw(st.booleans()):
                    numbers.stored(made)
                message = delivery(msgspec.json.encode(made), id="s", type=STATEMENT)
                found += ranges(list(tally.take([message])))
                stated_through = made.last
        elif flying:
            number = flying.pop(data.draw(st.integers(0, len(flying) - 1)))
            numbers.settled(number, is_void=step == "v")
            is_lost = data.draw(st.booleans())
            if step == "c" and is_lost:
                lost.add(number)
            if not is_lost:
                assert [] == list(tally.take([event(number, numbers.epoch)]))
    named = [number for first, last in found for number in range(first, last + 1)]
    assert sorted(number for number in lost if number <= stated_through) == sorted(named)
