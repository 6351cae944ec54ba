"""The bound: the rate of stale checks that is not exceeded, with a confidence of 95 %. Pure.

With 0 stale of N checks it is 1 - 0.05^(1/N), about 3/N, if checks fail independently of each other. But failures come
in bursts: a node that hangs makes a hundred checks stale at once. Two things follow:

1. As soon as anything was stale, the blocks count, not the checks: 40 stale checks of a minute that may have 100 weigh
   as 0.4 failures of one block. This holds for bursts of any shape within a block.
2. A burst that is rarer than the sample is long may be in no sample. So the share of minutes with a stale check is
   bounded beside it, clean or not: 1,440 clean minutes exclude one in 480, however many checks each of them has.

Source: C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits", Biometrika 26 (1934); the exact
one-sided bound p solves P(X <= failed; checked, p) = 0.05. In blocks `failed` need not be whole, so the
binomial tail is computed as the regularized incomplete beta function, which agrees with it for whole numbers.
"""

from collections.abc import Iterable, Iterator
from itertools import count
from math import exp, expm1, floor, lgamma, log, log1p, log10
from typing import NamedTuple

CONFIDENCE = 0.95
#: Halvings of the interval in which the bound lies: enough for the last bit of its logarithm.
HALVINGS = 60
#: Stands for a zero that would be divided by.
TINY = 1e-300
PRECISION = 1e-14


class Block(NamedTuple):
    """The checks of one delay in one minute."""

    checked: int
    stale: int


class Bound(NamedTuple):
    """Rates that are not exceeded: of stale checks, and of minutes with a stale check. 1.0 if nothing is known."""

    checks: float
    minutes: float


def bound(blocks: Iterable[Block]) -> Bound:
    """Return the bound of checks that were made in these blocks."""
    made = [block for block in blocks if block.checked]
    checked, stale = sum(block.checked for block in made), sum(block.stale for block in made)
    failed = sum(1 for block in made if block.stale)
    unit = max(block.checked for block in made) if stale else 1
    return Bound(upper(stale / unit, checked / unit), upper(failed, len(made)))


def nines(rate: float) -> float:
    """Return the nines of a rate of failures, rounded down: 3.1e-6 is 5.5 of them."""
    return floor(-log10(rate) * 10) / 10


def upper(failed: float, checked: float) -> float:
    """Return the exact one-sided upper bound of a rate, of `failed` in `checked` trials."""
    if failed >= checked:
        return 1.0
    if not failed:
        return -expm1(log(1 - CONFIDENCE) / checked)
    low, high = log(failed / checked), 0.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if at_most(failed, checked, exp(middle)) > 1 - CONFIDENCE:
            low = middle
        else:
            high = middle
    return exp(high)


def at_most(failed: float, checked: float, rate: float) -> float:
    """Return the probability of at most `failed` failures in `checked` trials that fail at this rate."""
    if rate >= 1:
        return 0.0
    first, second = failed + 1, checked - failed
    logarithm = lgamma(checked + 1) - lgamma(first) - lgamma(second) + first * log(rate) + second * log1p(-rate)
    if rate < (failed + 2) / (checked + 3):  # the fraction converges quickly on this side only
        return 1 - exp(logarithm) * _fraction(first, second, rate) / first
    return exp(logarithm) * _fraction(second, first, 1 - rate) / second


def _fraction(a: float, b: float, x: float) -> float:
    """Return the continued fraction of the incomplete beta function, by Lentz's method (DLMF 8.17.22)."""
    value, c, d = 1.0, 1.0, 0.0
    for term in _terms(a, b, x):
        d = 1 / (1 + term * d or TINY)
        c = 1 + term / c or TINY
        value *= c * d
        if abs(c * d - 1) < PRECISION:
            break
    return 1 / value


def _terms(a: float, b: float, x: float) -> Iterator[float]:
    for m in count():
        if m:
            yield m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        yield -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
