"""The age of an event, from what its publisher wrote."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pamqp import commands
from pamqp.header import ContentHeader

from invalidator.broker.wire.timestamp import age, stamp

PUBLISHED = datetime(2024, 5, 17, 12, 0, 0, 750_000, tzinfo=UTC)


def arrived(**properties: Any) -> commands.Basic.Properties:
    """Return the properties as they arrive: AMQP's own timestamp has lost its fraction."""
    header = ContentHeader(0, 2, commands.Basic.Properties(**properties)).marshal()
    content = ContentHeader()
    content.unmarshal(header)
    return content.properties


def seconds_later(seconds: float) -> float:
    return (PUBLISHED + timedelta(seconds=seconds)).timestamp()


@pytest.mark.parametrize("seconds", [0.004, 0.3, 90.0])
def test_a_stamped_event_is_known_to_the_millisecond(seconds: float) -> None:
    assert pytest.approx(seconds, abs=0.001) == age(arrived(headers=stamp(PUBLISHED)), seconds_later(seconds))


@pytest.mark.parametrize(("seconds", "expected"), [(0.004, 0.0), (0.3, 0.05), (90.0, 89.75)])
def test_where_only_the_second_is_known_the_youngest_age_counts(seconds: float, expected: float) -> None:
    assert pytest.approx(expected) == age(arrived(timestamp=PUBLISHED), seconds_later(seconds))


def test_an_event_from_a_clock_ahead_of_ours_is_new() -> None:
    assert age(arrived(headers=stamp(PUBLISHED)), seconds_later(-3)) == 0.0


@pytest.mark.parametrize("headers", [None, {}, {"timestamp_in_ms": "yesterday"}])
def test_without_a_readable_time_there_is_no_age(headers: dict[str, Any] | None) -> None:
    assert age(arrived(headers=headers), seconds_later(1)) is None


SECONDS = int(PUBLISHED.timestamp())


@pytest.mark.parametrize(
    "milliseconds", [0, -1, True, SECONDS, SECONDS * 1_000_000, SECONDS * 1_000_000_000, 2**63 - 1, 946_684_799_999]
)
def test_a_time_that_no_clock_can_have_written_is_no_age_and_the_property_counts_instead(milliseconds: int) -> None:
    headers = {"timestamp_in_ms": milliseconds}
    assert age(arrived(headers=headers), seconds_later(90)) is None
    assert pytest.approx(89.75) == age(arrived(headers=headers, timestamp=PUBLISHED), seconds_later(90))


def test_a_timestamp_of_zero_is_no_age() -> None:
    assert age(arrived(timestamp=datetime.fromtimestamp(0, UTC)), seconds_later(1)) is None
