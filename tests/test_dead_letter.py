"""Dead letters without a server: their cause, id and event."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pamqp.header import ContentHeader

from invalidator.broker.wire.header import FLAGS_AT, Properties
from invalidator.events.rules import Rules
from invalidator.operate.dead_letter import Cause, DeadLetter, cause_of
from invalidator.operate.dead_letters import Filter, Group
from invalidator.worker.planner import Planner

GOOD = b'{"type":"product_updated","id":7}'
PLANNER = Planner(Rules([("product_updated", ["product:{id}"])]), body_bytes=1000)


def dead_letter(body: bytes = GOOD, **properties: Any) -> DeadLetter:
    return DeadLetter(body, ContentHeader(properties=Properties(**properties)).marshal()[FLAGS_AT:])


class TestCause:
    def test_what_the_headers_say_goes_before_what_todays_rules_say(self) -> None:
        headers = {"x-invalidator-reason": "bad-key", "x-invalidator-detail": "it has spaces"}
        assert Cause("bad-key", "it has spaces") == cause_of(dead_letter(headers=headers), PLANNER)

    @pytest.mark.parametrize(
        ("body", "death", "reason"),
        [
            (b"{", "rejected", "not-json"),
            (b'{"type":"product_updated"}', "delivery_limit", "missing-field"),
            (GOOD, "delivery_limit", "delivery-limit"),
            (GOOD, "rejected", "rejected"),
            (GOOD, "expired", "unknown"),
        ],
    )
    def test_without_them_it_is_inferred(self, body: bytes, death: str, reason: str) -> None:
        cause = cause_of(dead_letter(body, headers={"x-death": [{"reason": death}]}), PLANNER)
        assert (reason, True) == (cause.reason, cause.is_inferred)

    def test_a_message_without_any_trace_has_an_unknown_one(self) -> None:
        assert "unknown" == cause_of(dead_letter(), PLANNER).reason

    def test_the_type_may_stand_in_the_property_alone(self) -> None:
        assert "missing-field" == cause_of(dead_letter(b"{}", message_type="product_updated"), PLANNER).reason


class TestDeadLetter:
    def test_its_id_depends_on_the_event_and_on_nothing_else(self) -> None:
        first = dead_letter(message_id="new", headers={"x-invalidator-message-id": "its own", "x-invalidator-at": "1"})
        assert first.id == dead_letter(message_id="its own").id
        assert first.id != dead_letter(b"{}", message_id="its own").id

    def test_it_goes_back_as_it_was_published(self) -> None:
        noted = {
            "x-invalidator-reason": "x",
            "x-death": [],
            "x-first-death-queue": "q",
            "x-delivery-count": 3,
            "x-acquired-count": 4,
            "CC": [],
        }
        dead = dead_letter(
            headers=noted | {"trace": "1", "x-invalidator-message-id": "its own"},
            message_id="new",
            message_type="product_updated",
            content_type="application/json",
            expiration="1",
            user_id="guest",
        )
        event = dead.as_event()
        assert {"trace": "1"} == event.headers
        assert ("its own", "product_updated", "application/json") == (
            event.message_id,
            event.message_type,
            event.content_type,
        )
        assert event.expiration is None and event.user_id is None

    def test_its_time_of_death_is_in_utc(self) -> None:
        moment = datetime(2026, 11, 25, 14, 0, tzinfo=UTC)
        assert moment == dead_letter(headers={"x-invalidator-at": "2026-11-25T15:00:00.000+01:00"}).died_at
        assert moment == dead_letter(headers={"x-death": [{"time": moment}]}).died_at
        assert dead_letter().died_at is None

    @pytest.mark.parametrize("body", [b"{", b"\xff", b"[]", b'{"type":null}', b"[" * 100_000, b"{}"])
    def test_a_body_without_a_type_has_none(self, body: bytes) -> None:
        assert "" == dead_letter(body).type


class TestFilter:
    CAUSE = Cause("not-json", "")

    def test_an_empty_one_takes_all(self) -> None:
        assert Filter().matches(dead_letter(), self.CAUSE)

    def test_all_that_is_asked_for_must_be_so(self) -> None:
        ids, reasons, types = [dead_letter().id], ["not-json", "x"], ["product_updated"]
        assert Filter(ids, reasons, types).matches(dead_letter(), self.CAUSE)
        assert not Filter([], ["x"], types).matches(dead_letter(), self.CAUSE)
        assert not Filter(ids, reasons, ["x"]).matches(dead_letter(), self.CAUSE)
        assert not Filter(["x"], reasons, types).matches(dead_letter(), self.CAUSE)


def test_a_group_spans_its_dead_letters_in_any_order() -> None:
    group, times = Group("r", "t"), ["2026-11-25T14:00:00+00:00", "2026-11-25T13:00:00+00:00"]
    dead_letters = [dead_letter(b"%d" % at, headers={"x-invalidator-at": time}) for at, time in enumerate(times)]
    for each in dead_letters:
        group.add(each, Cause("r", ""))
    assert (2, dead_letters[1].died_at, dead_letters[0].died_at, dead_letters[0].id) == (
        group.count,
        group.first,
        group.last,
        group.id,
    )
