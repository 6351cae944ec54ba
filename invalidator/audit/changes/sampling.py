"""The keys that are audited: a share of all, chosen by a hash, and those that are named. Pure.

A key is always in the sample or never, so each of its changes is seen, and a later change cannot be missed.
"""

from collections.abc import Collection

from mmh3 import mmh3_32_uintdigest

from invalidator.events.rules import Rules

HASHES = 2**32


class Sample:
    """A share of all keys."""

    def __init__(self, share: float, named: Collection[str] = ()) -> None:
        """Take this share, 0.01 for 1 %, and every key that is named."""
        self._below = share * HASHES
        self._named = frozenset(named)

    def __contains__(self, key: str) -> bool:
        return mmh3_32_uintdigest(key.encode()) < self._below or key in self._named

    def of(self, rules: Rules, keys: Collection[str]) -> Collection[str]:
        """Return the sampled ones of an event's keys, none if any of them cannot be a key."""
        sampled = [key for key in keys if key in self]
        return () if rules.checked(sampled) is None else sampled
