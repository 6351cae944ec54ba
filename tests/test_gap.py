"""Gaps: from when to when, what is reported of them, and their form in a consumer's arguments."""

from datetime import UTC, datetime

from invalidator.broker.gap import GAP_ARGUMENT, GapTracker

NINE, TEN = datetime(2026, 5, 17, 9, tzinfo=UTC), datetime(2026, 5, 17, 10, tzinfo=UTC)


def test_without_a_gap_a_consumer_has_no_arguments_and_nothing_is_reported() -> None:
    gaps = GapTracker()
    gaps.consuming()
    assert (gaps.arguments(), gaps.close()) == (None, None)


def test_a_queue_that_was_never_seen_is_missing_since_an_unknown_time() -> None:
    gaps = GapTracker()
    gaps.open("the queue was not there")
    gaps.arguments()
    gap = gaps.close()
    assert gap
    assert (gap.since, gap.reason) == (None, "the queue was not there")


def test_a_gap_begins_at_the_oldest_event_that_was_not_settled_and_keeps_its_first_reason() -> None:
    gaps = GapTracker()
    for position in (NINE, TEN, NINE, None):
        gaps.advance(position)
    gaps.open("the queue is gone")
    gaps.open("the queue was not there")
    arguments = gaps.arguments()
    gap = gaps.close()
    assert gap
    assert TEN == gap.since
    assert TEN <= gap.until
    assert (gap.reason, arguments) == ("the queue is gone", {GAP_ARGUMENT: str(gap)})


def test_a_gap_reaches_back_to_the_slowest_worker_and_never_forward() -> None:
    gaps = GapTracker()
    gaps.advance(TEN)
    gaps.open("the queue is gone")
    for position in (NINE, TEN, None):
        gaps.reach_back(position)
    gap = gaps.so_far()
    assert gap
    assert NINE == gap.since


def test_a_gap_is_reported_once_and_later_consumers_still_show_it() -> None:
    gaps = GapTracker()
    gaps.open("the queue was not there")
    shown = gaps.arguments()
    assert gaps.close()
    assert gaps.close() is None
    assert shown == gaps.arguments()
