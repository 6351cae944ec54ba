"""The memory of a process for keys is bounded."""

from invalidator.app.cache.hot_keys import Reads
from invalidator.app.cache.reader import Bounded


def test_entry_asked_for_least_lately_makes_room() -> None:
    kept: Bounded[str, int] = Bounded(2)
    kept.put("a", 1)
    kept.put("b", 2)
    assert 1 == kept.get("a")
    kept.put("c", 3)
    assert [1, None, 3] == [kept.get(key) for key in "abc"]


def test_hot_keys_stay_counted_while_many_others_are_read_once() -> None:
    reads = Reads(limit=100)
    for number in range(100_000):
        reads.count("hot" if number % 10 == 0 else f"cold:{number}")
    assert len(reads._counts) <= 100
    assert reads.of("hot") >= 5


def test_counts_add_up_while_there_is_room() -> None:
    reads = Reads(limit=3)
    for key in "aabbbc":
        reads.count(key)
    assert [2, 3, 1, 0] == [reads.of(key) for key in "abcd"]
