"""The log of an outage: once, then on change or each minute."""

from typing import Any

import pytest

from invalidator.runtime.outage import AGAIN_SECONDS, Outage


class Story:
    """An outage with a clock that the test moves, and the lines that it logged."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[dict[str, Any]] = []
        self.outage = Outage(self._log, "not consuming", clock=lambda: self.now)

    def _log(self, event: str, **fields: Any) -> None:
        assert "not consuming" == event
        self.lines.append(fields)

    def fails(self, reason: str, *, seconds: int, **fields: Any) -> list[dict[str, Any]]:
        """Fail once a second, and return the new lines."""
        before = len(self.lines)
        for _ in range(seconds):
            self.outage.lasts(reason, **fields)
            self.now += 1.0
        return self.lines[before:]


@pytest.fixture
def story() -> Story:
    return Story()


def test_an_outage_is_logged_when_it_begins_and_each_minute(story: Story) -> None:
    lines = story.fails("no broker answers", seconds=int(2 * AGAIN_SECONDS) + 1)
    reason = {"reason": "no broker answers"}
    assert [reason, reason | {"tries": 61}, reason | {"tries": 121}] == lines


def test_a_change_of_the_reason_is_logged_at_once_and_a_change_back_is_not(story: Story) -> None:
    story.fails("no broker answers", seconds=5)
    assert [{"reason": "it refuses us", "tries": 6}] == story.fails("it refuses us", seconds=5)
    assert [] == story.fails("no broker answers", seconds=5)


def test_numbers_that_differ_from_try_to_try_are_no_change(story: Story) -> None:
    story.fails('<Channel: "1" at 0x7f00a1> closed', seconds=1)
    assert [] == story.fails('<Channel: "2" at 0x7f00b2> closed', seconds=5)


def test_each_node_has_lines_of_its_own(story: Story) -> None:
    story.fails("full", seconds=5, node="c1")
    assert [{"reason": "full", "node": "c2", "tries": 6}] == story.fails("full", seconds=5, node="c2")


def test_after_its_end_the_next_failure_is_logged_at_once(story: Story) -> None:
    story.fails("no broker answers", seconds=5)
    story.outage.ends()
    assert [{"reason": "no broker answers"}] == story.fails("no broker answers", seconds=5)
