"""A queue that gets nothing while the log does has lost its binding; one that waits, or shares, has not."""

import pytest

from invalidator.broker.consume.arrivals import Arrivals


class Stage:
    """A queue and a log, second by second."""

    def __init__(self, *, consumers: int = 1) -> None:
        self.now = 0.0
        self._consumers = consumers
        self._arrived = 0
        self.arrivals = Arrivals(clock=lambda: self.now)
        self.second(arrives=True)

    def second(
        self, logged: int = 0, *, times: int = 1, arrives: bool = False, waiting: int = 0, is_at_end: bool = True
    ) -> bool:
        for _ in range(times):
            self.now += 1.0
            self._arrived += arrives
            if not self.arrivals.has_arrived(self._arrived):
                self.arrivals.compare(logged, is_at_end=is_at_end, waiting=waiting, consumers=self._consumers)
        return self.arrivals.is_bound


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_what_comes_to_the_log_and_does_not_arrive_within_seconds_shows_that_the_queue_is_not_bound(
    stage: Stage,
) -> None:
    assert stage.second(times=3)
    assert stage.second(1)
    assert stage.second(times=4)
    assert not stage.second()
    assert stage.second(arrives=True)


def test_what_arrived_before_the_log_showed_it_says_nothing(stage: Stage) -> None:
    assert stage.second(1)
    assert stage.second(times=20)


def test_a_quiet_log_says_nothing(stage: Stage) -> None:
    assert stage.second(times=100)


def test_a_log_that_is_read_late_says_nothing(stage: Stage) -> None:
    assert stage.second(500, times=100, is_at_end=False)


def test_whatever_arrives_proves_the_binding(stage: Stage) -> None:
    for _ in range(20):
        assert stage.second(1, times=4)
        assert stage.second(1, arrives=True)


def test_a_queue_in_which_events_wait_gets_them(stage: Stage) -> None:
    assert stage.second(1, times=20, waiting=1)


def test_with_other_consumers_it_takes_as_many_events_as_this_one_would_get_some_of() -> None:
    stage = Stage(consumers=3)
    assert stage.second(10, times=12)
    assert not stage.second(10, times=2)
