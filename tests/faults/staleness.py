"""Millions of durations in a few dozen numbers. Pure."""

from collections.abc import Sequence

#: The first bucket ends at a millisecond and each further one a quarter higher. The last one has no end.
FIRST, STEP, BUCKETS = 0.001, 1.25, 64


class Staleness:
    """A histogram of durations."""

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
        """Add another histogram in its written form."""
        self.longest = max(self.longest, written[0])
        self.counts = [mine + int(theirs) for mine, theirs in zip(self.counts, written[1:], strict=True)]

    def written(self) -> list[float]:
        """Return the longest duration in seconds, followed by the counts."""
        return [self.longest, *self.counts]

    def within(self, share: float) -> float:
        """Return a quantile in seconds, at most a quarter too high; 0 if there are no durations."""
        needed, end = share * sum(self.counts), FIRST
        for count in self.counts:
            needed -= count
            if needed <= 0:
                break
            end *= STEP
        return min(end, self.longest)
