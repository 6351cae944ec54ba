"""The breaker and its back-off, with clock and chance injected."""

from invalidator.memcached.breaker import Backoff, Breaker, State
from invalidator.memcached.failure import Failure


def most(low: float, high: float) -> float:
    return high


def test_backoff_doubles_up_to_its_longest() -> None:
    backoff = Backoff(first=0.1, longest=5.0, uniform=most)
    assert [backoff.delay(failures) for failures in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_backoff_survives_a_node_that_is_away_for_years() -> None:
    assert Backoff(uniform=most).delay(10**9) == 5.0


def test_jitter_is_full() -> None:
    ranges: list[tuple[float, float]] = []

    def spy(low: float, high: float) -> float:
        ranges.append((low, high))
        return low

    assert Backoff(first=0.1, uniform=spy).delay(2) == 0.0
    assert ranges == [(0.0, 0.4)]


def test_breaker_knows_since_when_and_why_it_is_open_and_when_it_probes_next() -> None:
    breaker = Breaker(Backoff(uniform=most))
    breaker.open(Failure.DEADLINE, "no confirmation for 1 s", now=10.0, waited=2)
    breaker.next_delay(now=10.0)
    breaker.next_delay(now=11.0)
    assert breaker.state == State(
        is_open=True,
        reason="no confirmation for 1 s",
        failure=Failure.DEADLINE,
        since=10.0,
        next_probe_at=11.2,
        waited=2,
    )


def test_closed_breaker_forgets_everything_but_how_many_waited() -> None:
    breaker = Breaker(Backoff(uniform=most))
    breaker.open(Failure.CONNECT, "refused", now=10.0, waited=2)
    breaker.close()
    assert breaker.state == State(waited=2)
    breaker.open(Failure.CONNECT, "refused", now=20.0, waited=1)
    assert breaker.next_delay(now=20.0) == 0.1
