"""The summary: counts, coverage and bound of a day, never better than what was checked."""

from pathlib import Path

import pytest

from invalidator.audit.account import Account, Minute
from invalidator.audit.summary import DAY, Line, percent, summarized, summary_of
from invalidator.audit.verdict import Verdict
from invalidator.bound import Block, bound

NOON = 1_800_000_000.0
CLEAN = Minute(
    1.0, {Verdict.ABSENT: 900, Verdict.FRESH: 90, Verdict.FILLING: 2, Verdict.UNCHECKED: 5, Verdict.UNCLEAR: 3}
)
STALE = Minute(1.0, {Verdict.FRESH: 50, Verdict.LATE: 3, Verdict.PERMANENT: 1})


def test_a_line_counts_what_was_checked_what_had_a_value_and_what_was_stale() -> None:
    (line,) = summarized([CLEAN, STALE], listened=0.5)
    assert (1.0, 992 + 54, 90 + 54, 4) == (line.delay, line.checked, line.present, line.stale)
    assert 0.5 * 1046 / 1054 == pytest.approx(line.coverage)
    assert bound([Block(992, 0), Block(54, 4)]) == line.changes
    assert bound([Block(90, 0), Block(54, 4)]) == line.values


def test_each_delay_has_a_line_in_rising_order() -> None:
    lines = summarized([CLEAN._replace(delay=10.0), CLEAN, CLEAN._replace(delay=0.1)], listened=1.0)
    assert [0.1, 1.0, 10.0] == [line.delay for line in lines]


def test_a_line_in_words_has_no_more_nines_than_the_sample_carries() -> None:
    (line,) = summarized([CLEAN], listened=1.0)
    words = "at least 2.5 nines within 1 s: 992 checked, 90 with a value, 0 stale, coverage 99.2 %"
    assert words == str(line)


def test_where_nothing_could_be_checked_nothing_is_promised() -> None:
    (line,) = summarized([Minute(1.0, {Verdict.UNCHECKED: 7})], listened=1.0)
    assert "at least 0.0 nines within 1 s: 0 checked, 0 with a value, 0 stale, coverage 0.0 %" == str(line)


def test_a_share_is_rounded_down() -> None:
    assert ["100.0 %", "99.9 %", "0.0 %"] == [percent(share) for share in (1.0, 0.99999, 0.0009)]


def test_an_auditor_that_was_stopped_for_a_minute_has_not_covered_it(tmp_path: Path) -> None:
    lines = {minutes: _covered(tmp_path / f"{minutes}.sqlite", minutes=minutes) for minutes in (10, 9)}
    assert [1.0, 0.9] == pytest.approx([lines[10].coverage, lines[9].coverage], abs=0.01)


def _covered(path: Path, *, minutes: int) -> Line:
    """Return the line of an auditor that listened in the first so and so many of ten minutes."""
    account = Account(path)
    account.count(1.0, Verdict.ABSENT, at=NOON, times=10)
    for minute in range(minutes):
        account.listened(60.0, at=NOON + 60 * minute)
    account.save(now=NOON)
    account.close()
    (line,) = summary_of(path, now=NOON + 600, seconds=DAY)
    return line
