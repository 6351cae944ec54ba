"""The account of `dev faults healing`: it must be able to turn red."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tests.faults.healing.account import Seen, is_named, judged, table

STORY = "since 2026-05-17T09:00:00Z until 2026-05-17T09:00:02Z: the queue was not there; "
HEALED = Seen(
    kind="deleted",
    number=1,
    confirmed=4000,
    missed=600,
    waited=1.5,
    read=900,
    early=0,
    stale=0,
    named=0,
    flushes=0,
    dead=0,
    others=[4000, 4000],
    repeated=False,
    healed=[f"{STORY}healed: 900 events of it were evicted from the log in 0.2 s"],
)
OLDER = replace(
    HEALED,
    stale=300,
    early=300,
    healed=[],
    open=[f"{STORY}not covered before 2026-05-17T09:00:01Z, where the log begins: 200 events of it were evicted"],
    is_older_than_the_log=True,
)


def test_a_healed_gap_is_green() -> None:
    assert [] == judged(HEALED).faults
    assert "1/1" in table([judged(HEALED)])


def test_a_gap_older_than_the_log_is_green_if_it_is_said_to_be_not_covered() -> None:
    assert [] == judged(OLDER).faults


@pytest.mark.parametrize(
    ("seen", "fault"),
    [
        (replace(HEALED, missed=0), "no event was missed, so the trial proves nothing"),
        (replace(HEALED, waited=5.1), "not over within 5 s"),
        (replace(HEALED, waited=None), "not over within 5 s"),
        (replace(HEALED, early=3), "3 keys were stale when it was healed"),
        (replace(HEALED, stale=3), "3 stale keys"),
        (replace(HEALED, flushes=1), "1 flushes"),
        (replace(HEALED, others=[4000, 4001]), "the other cluster's deletes are not its events"),
        (replace(HEALED, others=[3999, 4001], repeated=True), "the other cluster's deletes are not its events"),
        (replace(HEALED, other_gaps=["one"]), "the other cluster has gaps: ['one']"),
        (replace(HEALED, open=["one"]), "open gaps: ['one']"),
        (replace(HEALED, healed=["one"]), "status does not say from when to when it was healed: ['one']"),
        (replace(HEALED, read=599), "only 599 events were read"),
        (replace(HEALED, surprises=["worker-0 ended by itself, with 1"]), "worker-0 ended by itself, with 1"),
        (replace(OLDER, healed=HEALED.healed), f'status does not say "not covered": {HEALED.healed}'),
    ],
)
def test_each_fault_turns_it_red_and_is_named(seen: Seen, fault: str) -> None:
    row = judged(seen)
    assert [fault] == row.faults
    assert f"RED: {fault}" in str(row)
    assert "0/1" in table([row])


HOLE = (
    f"{STORY}not covered since 2026-05-17T09:00:01Z until 2026-05-17T09:00:02Z, "
    "when the broker came back before its log: 2"
)


def test_after_a_killed_broker_a_hole_of_the_log_that_status_names_is_green() -> None:
    killed = replace(HEALED, healed=[], open=[HOLE], named=3)
    assert [] == judged(replace(killed, may_have_a_hole=True)).faults
    assert judged(killed).faults


@pytest.mark.parametrize(("second", "expected"), [(0.9, False), (1.0, True), (2.9, True), (3.1, False)])
def test_a_key_is_named_if_its_event_falls_into_the_hole(second: float, expected: bool) -> None:
    at = datetime(2026, 5, 17, 9, tzinfo=UTC).timestamp() + second
    assert expected == is_named(at, ["another gap", HOLE])


def test_deliveries_that_were_repeated_may_delete_twice_in_the_other_cluster() -> None:
    assert [] == judged(replace(HEALED, others=[4000, 4010], repeated=True)).faults
