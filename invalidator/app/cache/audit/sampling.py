"""The sample: a share of all hits. Pure.

The number of hits from one of the sample to the next is drawn at once, so the others cost one `next` in C. It is
distributed geometrically: each hit has the same chance, whatever came before it.
"""

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import repeat
from math import floor, log, log1p
from operator import length_hint

from invalidator.errors import ConfigurationError

#: Hits from one of the sample to the next, at most: an iterator takes no larger number.
LONGEST = 1e18


class Sampling:
    """A share of all hits, for any number of threads."""

    def __init__(self, share: float, *, uniform: Callable[[], float] = random.random) -> None:
        """Take this share, 0.001 for one of a thousand; raise `ConfigurationError` if there can be no such share."""
        if not 0 < share <= 1:
            raise ConfigurationError(f"audit = {share} is no share of the reads: 0.001 is one of a thousand")
        self._share = share
        self._uniform = uniform
        self.draw()

    def draw(self) -> None:
        """Begin to count up to the next hit of the sample."""
        #: One for each hit that is not in the sample. The hit at which it is exhausted is, and has to `draw`.
        self.ticks: Iterator[bool] = repeat(False, self._distance())

    def due(self, keys: Collection[str]) -> Sequence[str]:
        """Count a hit of each key. Return those that are in the sample."""
        left = length_hint(self.ticks)
        if left >= len(keys):
            self.ticks = repeat(False, left - len(keys))
            return ()
        return [key for key in keys if self.is_due()]

    def is_due(self) -> bool:
        """Count a hit. Return True if it is in the sample."""
        if is_due := next(self.ticks, True):
            self.draw()
        return is_due

    def _distance(self) -> int:
        """Return the number of hits before the next one of the sample."""
        if self._share == 1:
            return 0
        return floor(min(LONGEST, log(1 - self._uniform()) / log1p(-self._share)))
