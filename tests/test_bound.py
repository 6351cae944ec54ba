"""The bound, against an exact table and against simulated runs whose true rate is known."""

import random
from collections.abc import Callable

import pytest

from invalidator.bound import Block, Bound, at_most, bound, nines, upper

#: Failed, checked, and scipy 1.17's beta.ppf(0.95, failed + 1, checked - failed).
EXACT = [
    (0, 1, 0.95),
    (0, 10, 0.2588655508930522),
    (0, 3_000_000, 9.985769259397262e-07),
    (1, 10, 0.39416330243650466),
    (9, 10, 0.9948838031081763),
    (1, 1440, 0.0032900709580887576),
    (3, 10080, 0.0007690305965913822),
    (40, 1440, 0.036007169169307164),
    (10, 2_412_881, 7.029851353722347e-06),
    (200, 1_000_000, 0.00022487155413464138),
    (1, 30_000_000, 1.5812880745072986e-07),
    (0.4, 1440, 0.0025890271304644555),
    (2.5, 10_000, 0.0007031976021372244),
    (3.3, 7.7, 0.7596992761693471),
]
BLOCKS = 200

#: Returns a burst's share of the checks of its block.
Shape = Callable[[random.Random], float]
SHAPES: dict[str, Shape] = {
    "whole minutes": lambda _: 1.0,
    "half minutes": lambda _: 0.5,
    "any share": lambda chance: chance.random(),
    "mostly small ones": lambda chance: min(1.0, 0.02 / (1 - chance.random()) ** 0.9),
}


@pytest.mark.parametrize(("failed", "checked", "expected"), EXACT)
def test_it_is_clopper_and_pearsons(failed: float, checked: float, expected: float) -> None:
    assert upper(failed, checked) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(("failed", "rate"), [(0, 0.01), (2, 0.001), (2, 0.4), (20, 0.1), (49, 0.9)])
def test_the_tail_is_the_binomial_one(failed: int, rate: float) -> None:
    term, total = (1 - rate) ** 50, 0.0
    for number in range(failed + 1):
        total += term
        term *= (50 - number) / (number + 1) * rate / (1 - rate)
    assert at_most(failed, 50, rate) == pytest.approx(total, rel=1e-9)


def test_without_checks_and_with_all_of_them_stale_nothing_is_bounded() -> None:
    assert Bound(1.0, 1.0) == bound([]) == bound([Block(0, 0)]) == bound([Block(7, 7)])


def test_six_nines_need_three_million_clean_checks() -> None:
    assert [6.0, 5.9] == [nines(upper(0, checked)) for checked in (2_995_732 + 1, 2_995_732 - 1000)]


def test_nines_are_rounded_down() -> None:
    assert [5.5, 3.0, 2.9, 0.0] == [nines(rate) for rate in (3.1e-6, 1e-3, 1.01e-3, 1.0)]


def test_clean_checks_count_one_by_one_and_after_a_stale_one_in_blocks() -> None:
    clean = [Block(100, 0)] * 1440
    assert upper(0, 144_000) == bound(clean).checks
    assert upper(0.4, 1440) == bound([Block(100, 40), *clean[1:]]).checks
    assert (upper(0, 1440), upper(1, 1440)) == (bound(clean).minutes, bound([Block(100, 40), *clean[1:]]).minutes)


def test_it_holds_when_checks_fail_independently() -> None:
    for rate in (1e-4, 1e-3):
        assert 0.95 <= _held_when_independent(rate, runs=200)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_holds_with_bursts_once_one_was_seen_and_for_minutes_always(shape: str) -> None:
    for bursts in (1, 5, 20):
        rates, minutes = _held_with_bursts(SHAPES[shape], bursts, runs=200)
        assert 0.95 <= rates
        assert 0.95 <= minutes


def test_a_burst_that_is_rarer_than_the_sample_is_excluded_by_minutes_only() -> None:
    """Show the reason why two bounds are printed: a clean sample says nothing about bursts that it did not meet."""
    clean, rate = bound([Block(50, 0)] * BLOCKS), 1 / BLOCKS
    assert clean.checks < rate < clean.minutes


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_holds_in_95_percent_of_10000_runs(shape: str) -> None:
    assert 0.95 <= _held_when_independent(1e-3, runs=10_000)
    for bursts in (1, 3, 5, 20, 60):
        rates, minutes = _held_with_bursts(SHAPES[shape], bursts, runs=10_000)
        assert 0.95 <= rates, bursts
        assert 0.95 <= minutes, bursts


def _held_when_independent(rate: float, *, runs: int) -> float:
    """Return the share of runs whose bound is not below the true rate."""
    chance = random.Random(17)
    return sum(bound(_independent(chance, rate)).checks >= rate for _ in range(runs)) / runs


def _independent(chance: random.Random, rate: float) -> list[Block]:
    stale, at = [0] * BLOCKS, int(chance.expovariate(rate))
    while at < 100 * BLOCKS:
        stale[at // 100] += 1
        at += int(chance.expovariate(rate)) + 1
    return [Block(100, number) for number in stale]


def _held_with_bursts(shape: Shape, bursts: float, *, runs: int) -> tuple[float, float]:
    """Return the share of runs with a stale check whose bound holds, and of all runs whose bound of minutes holds."""
    chance, size = random.Random(18), random.Random(19)
    rate = bursts / BLOCKS
    true = rate * sum(_stale(shape, size) for _ in range(20_000)) / 20_000 / 50
    seen = held = minutes = 0
    for _ in range(runs):
        found = bound([Block(50, _stale(shape, chance) if chance.random() < rate else 0) for _ in range(BLOCKS)])
        minutes += found.minutes >= rate
        if found.minutes > upper(0, BLOCKS):
            seen += 1
            held += found.checks >= true
    return held / seen, minutes / runs


def _stale(shape: Shape, chance: random.Random) -> int:
    return max(1, round(50 * shape(chance)))
