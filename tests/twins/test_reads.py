"""Both caches, for threads and for asyncio, read alike: over a memcached in this process that can fail."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from invalidator.app import Loaded
from invalidator.app.cache.items import LEASE
from tests.logs import capture_logs
from tests.lying_memcached import LyingMemcached
from tests.twins.twin import K, Twins, never, outcomes


def test_a_miss_is_filled_and_a_hit_is_one_command(node: LyingMemcached, twin: Twins) -> None:
    read: list[str] = []
    hits = outcomes("hit")
    cache = twin(node.address, on_read=read.append)
    assert [1, 1] == [cache.get(lambda: 1), cache.get(never)]
    assert (["get", "add", "gets", "cas", "get"], [K, K]) == (node.verbs, read)
    assert (1, 1) == (outcomes("hit") - hits, len(node.accepted))


def test_many_keys_are_returned_in_their_order_and_only_those_that_lack_are_loaded(
    node: LyingMemcached, twin: Twins
) -> None:
    read: list[str] = []
    asked: list[list[str]] = []
    cache = twin(node.address, on_read=read.append)
    node.put("b", b"2")

    def load(keys: list[str]) -> dict[str, int]:
        asked.append(keys)
        return {"a": 1}

    assert [("a", 1), ("b", 2), ("c", None)] == list(cache.get_many("abcab", load).items())
    assert ([["a", "c"]], ["a", "b", "c"]) == (asked, read)
    assert {"a": 1, "b": 2, "c": None} == cache.get_many("abc", never)
    assert {} == cache.get_many("", never)


def test_many_keys_of_many_nodes_are_read_though_one_is_down(node: LyingMemcached, twin: Twins) -> None:
    cache = twin(node.address, "127.0.0.1:1")
    keys = [f"product:{number}" for number in range(20)]
    assert dict.fromkeys(keys, 1) == cache.get_many(keys, lambda keys: dict.fromkeys(keys, 1))
    asked: list[str] = []

    def load(keys: list[str]) -> dict[str, int]:
        asked.extend(keys)
        return dict.fromkeys(keys, 2)

    values = cache.get_many(keys, load)
    assert 0 < len(asked) < 20
    assert {key: 2 if key in asked else 1 for key in keys} == values


def test_a_decorated_function_is_read_by_its_arguments(node: LyingMemcached, twin: Twins) -> None:
    calls: list[str] = []

    def price(id: str) -> str:
        calls.append(id)
        return f"price of {id}"

    read = twin(node.address).cached("price:{id}", price)
    assert ["price of 1", "price of 2", "price of 1"] == [read("1"), read("2"), read("1")]
    assert (["1", "2"], b'"price of 1"') == (calls, node.value("price:1"))


def test_a_failed_load_is_raised_and_leaves_no_placeholder(node: LyingMemcached, twin: Twins) -> None:
    def fail(*_: Any) -> Any:
        raise LookupError("no such product")

    cache = twin(node.address)
    with pytest.raises(LookupError, match="no such product"):
        cache.get(fail)
    with pytest.raises(LookupError, match="no such product"):
        cache.get_many("ab", fail)
    assert {} == node.items
    assert 1 == cache.get(lambda: 1)


def test_another_readers_fill_is_waited_for(node: LyingMemcached, twin: Twins) -> None:
    node._store(K.encode(), b"f" * 32, b"%d" % LEASE)

    def fill(verb: str) -> None:
        if len(node.verbs) == 2:
            node.put(K, b"7")

    node.before = fill
    assert 7 == twin(node.address, patience=5).get(never)
    assert ["get", "get", "get"] == node.verbs


def test_the_pauses_while_another_reader_fills_are_real(node: LyingMemcached, twin: Twins) -> None:
    node._store(K.encode(), b"f" * 32, b"%d" % LEASE)
    later = threading.Timer(0.3, node.put, [K, b"7"])
    later.start()
    assert 7 == twin(node.address, patience=10).get(never)
    later.join()


def test_a_load_from_a_replica_is_kept_once_it_is_behind_the_placeholder(node: LyingMemcached, twin: Twins) -> None:
    cache = twin(node.address, position=lambda: 5)
    assert 1 == cache.get(lambda: Loaded(1, as_of=4.0))
    assert node.value(K) is None
    assert 2 == cache.get(lambda: Loaded(2, as_of=6.0))
    assert b"2" == node.value(K)


@pytest.mark.parametrize("position", [lambda: 1 / 0, lambda: "nowhere"])
def test_an_unknown_position_costs_the_fill_and_not_the_read(
    node: LyingMemcached, twin: Twins, position: Callable[[], Any]
) -> None:
    with capture_logs() as lines:
        assert 1 == twin(node.address, position=position).get(lambda: Loaded(1, as_of=4.0))
    assert node.value(K) is None
    assert ["the primary's position is unknown; serving the loaded value without caching"] == [
        line["event"] for line in lines
    ]
