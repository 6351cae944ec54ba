"""How long things took, by the million, in a few dozen numbers. Pure."""

from collections.abc import Sequence

#: Each bucket ends a quarter later than the one before; the first at a millisecond, the last one never.
FIRST, STEP, BUCKETS = 0.001, 1.25, 64


class Staleness:
    """Counts durations in buckets."""

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        self.longest = max(self.longest, seconds)
        bucket, end = 0, FIRST
        while seconds > end and bucket < BUCKETS - 1:
            bucket, end = bucket + 1, end * STEP
        self.counts[bucket] += 1

    def merge(self, written: Sequence[float]) -> None:
        """Add what another one has written down."""
        self.longest = max(self.longest, written[0])
        self.counts = [mine + int(theirs) for mine, theirs in zip(self.counts, written[1:], strict=True)]

    def written(self) -> list[float]:
        """The longest in seconds, then the counts."""
        return [self.longest, *self.counts]

    def within(self, share: float) -> float:
        """Seconds within which that share of all was over, a quarter too many at most; 0 if there are none."""
        needed, end = share * sum(self.counts), FIRST
        for count in self.counts:
            needed -= count
            if needed <= 0:
                break
            end *= STEP
        return min(end, self.longest)
