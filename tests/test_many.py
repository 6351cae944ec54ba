"""Many events by position: which are sent again after a failure, and the account when it is given up."""

from collections.abc import Iterable

import pytest

from invalidator.app.publish.many import Many
from invalidator.errors import IncompleteError, RefusedError, UnconfirmedError, UnreachableError
from invalidator.events.event import Event

LOST = UnconfirmedError("lost")


def events(count: int) -> Iterable[Event]:
    return (Event("product_updated", {"id": number}) for number in range(count))


def many(count: int) -> Many:
    return Many(events(count), app_id="")


def test_everything_is_sent_once_in_order() -> None:
    sending = many(3)
    assert [0, 1, 2] == [position for position, _ in sending]
    assert 3 == sending.sent()


def test_after_a_failure_everything_from_the_first_unconfirmed_event_on_is_sent_again_in_order() -> None:
    sending = many(6)
    first = [sent for _, sent in zip(range(4), sending, strict=False)]
    sending.failed(LOST, [(first[1], False), (first[2], True), (first[3], False)])
    again = list(sending)
    assert [1, 2, 3, 4, 5] == [position for position, _ in again]
    assert [message.id for _, message in first[1:]] == [message.id for _, message in again[:3]]
    assert 6 == sending.sent()


def test_a_second_failure_without_progress_is_the_last_and_names_the_positions() -> None:
    sending = many(6)
    first = [sent for _, sent in zip(range(3), sending, strict=False)]
    sending.failed(LOST, [(first[0], False), (first[1], True), (first[2], False)])
    again = [sent for _, sent in zip(range(2), sending, strict=False)]
    with pytest.raises(IncompleteError, match=r"^lost; 2 of the events sent are unconfirmed") as raised:
        sending.failed(LOST, [(sent, False) for sent in again])
    account = raised.value
    assert ((0, 2), 3, LOST, 75) == (account.unconfirmed, account.unsent, account.cause, account.exit_code)


def test_events_that_were_not_sent_again_are_in_the_account() -> None:
    sending = many(6)
    first = [sent for _, sent in zip(range(3), sending, strict=False)]
    sending.failed(LOST, [(sent, False) for sent in first])
    with pytest.raises(IncompleteError) as raised:
        sending.failed(UnreachableError("no broker answers"), [])
    assert ((0, 1, 2), 3) == (raised.value.unconfirmed, raised.value.unsent)


def test_progress_allows_another_repetition() -> None:
    sending = many(6)
    for _ in range(3):
        (sent,) = [sent for _, sent in zip(range(1), sending, strict=False)]
        sending.failed(LOST, [(sent, False)])
        sending.progressed()
    assert [0, 1, 2, 3, 4, 5] == [position for position, _ in sending]


def test_a_refusal_is_not_tried_again() -> None:
    with pytest.raises(IncompleteError) as raised:
        many(6).failed(RefusedError("no"), [])
    assert ((), 0, 77) == (raised.value.unconfirmed, raised.value.unsent, raised.value.exit_code)


def test_an_event_that_no_worker_could_read_ends_it_behind_those_before_it() -> None:
    bad = [*events(2), Event("product_updated", {"id": float("nan")}), *events(1)]
    sending = Many(bad, app_id="")
    assert [0, 1] == [position for position, _ in sending]
    with pytest.raises(IncompleteError) as raised:
        sending.sent()
    assert ((2,), 3, 2) == (raised.value.unconfirmed, raised.value.unsent, raised.value.exit_code)
