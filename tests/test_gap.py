"""Gaps: from when to when, what is reported of them, and their form in a consumer's arguments."""

from datetime import UTC, datetime

import pytest

from invalidator.broker.gap import GAP_ARGUMENT, Gap, GapTracker

NINE, TEN = datetime(2026, 5, 17, 9, tzinfo=UTC), datetime(2026, 5, 17, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    "gap", [Gap(NINE, TEN, "the queue was deleted"), Gap(None, TEN, "until: since unknown"), Gap(NINE, TEN, "")]
)
def test_a_gap_is_read_from_the_text_that_it_writes(gap: Gap) -> None:
    assert gap == Gap.read(str(gap))


@pytest.mark.parametrize("text", ["", "since yesterday until today: a fault", "a gap", "since unknown"])
def test_any_other_text_is_not_a_gap(text: str) -> None:
    assert Gap.read(text) is None


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


def test_a_gap_begins_when_the_queue_was_last_consumed_and_keeps_its_first_reason() -> None:
    gaps = GapTracker()
    gaps.consuming()
    gaps.open("the queue is gone")
    gaps.open("the queue was not there")
    arguments = gaps.arguments()
    gap = gaps.close()
    assert gap
    assert gap.since
    assert gap.since <= gap.until
    assert (gap.reason, arguments) == ("the queue is gone", {GAP_ARGUMENT: str(gap)})


def test_a_gap_is_reported_once_and_later_consumers_still_show_it() -> None:
    gaps = GapTracker()
    gaps.open("the queue was not there")
    shown = gaps.arguments()
    assert gaps.close()
    assert gaps.close() is None
    assert shown == gaps.arguments()
