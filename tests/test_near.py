"""The values that a near cache keeps of the layer below; it keeps none while no worker is announcing."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from invalidator.app.near import cache as near
from invalidator.app.near.cache import AsyncNearCache, NearCache
from invalidator.broker.messages import Announcement

#: No broker listens there.
NOWHERE = "amqp://guest:guest@127.0.0.1:1/"


class SharedLayer:
    """A dictionary that is read through."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.reads = 0

    def get_or_load(self, key: str, load: Callable[[], Any], *, ttl: float, negative_ttl: float | None) -> Any:
        self.reads += 1
        if key not in self.values:
            self.values[key] = load()
        return self.values[key]


class AsyncSharedLayer(SharedLayer):
    async def get_or_load(
        self, key: str, load: Callable[[], Awaitable[Any]], *, ttl: float, negative_ttl: float | None
    ) -> Any:
        self.reads += 1
        if key not in self.values:
            self.values[key] = await load()
        return self.values[key]


def announce_a_worker(cache: near._Near[Any]) -> None:
    cache._copies.linked()
    cache._copies.received(Announcement("eu", "w1", 0))


def fail() -> str:
    raise AssertionError("there was no need to load")


def test_a_loaded_value_is_kept_by_the_next_read_which_finds_it_in_the_shared_layer() -> None:
    shared = SharedLayer()
    with NearCache(shared, NOWHERE, cluster="eu") as cache:
        announce_a_worker(cache)
        assert cache.get_or_load("k", lambda: "value", ttl=60) == "value"
        assert len(cache) == 0
        assert [cache.get_or_load("k", fail, ttl=60) for _ in range(3)] == ["value"] * 3
        assert (len(cache), shared.reads) == (1, 2)


@pytest.mark.parametrize(("max_age", "ttl"), [(0.0, 60), (60.0, 0)])
def test_a_value_is_held_no_longer_than_max_age_and_than_its_ttl(max_age: float, ttl: int) -> None:
    shared = SharedLayer()
    shared.values["k"] = "value"
    with NearCache(shared, NOWHERE, cluster="eu", max_age=max_age) as cache:
        announce_a_worker(cache)
        assert [cache.get_or_load("k", fail, ttl=ttl) for _ in range(2)] == ["value"] * 2
        assert shared.reads == 2


def test_value_of_a_load_that_was_shared_is_not_kept() -> None:
    class Sharing(SharedLayer):
        def get_or_load(self, key: str, load: Any, *, ttl: float, negative_ttl: float | None) -> Any:
            load.shared()
            return "from the replica that lags behind"

    with NearCache(Sharing(), NOWHERE, cluster="eu") as cache:
        announce_a_worker(cache)
        cache.get_or_load("k", fail, ttl=60)
        assert len(cache) == 0


def test_without_an_announcing_worker_every_read_goes_below() -> None:
    shared = SharedLayer()
    with NearCache(shared, NOWHERE, cluster="eu") as cache:
        for _ in range(3):
            cache.get_or_load("k", lambda: "value", ttl=60)
        assert (len(cache), shared.reads) == (0, 3)


def test_a_load_that_fails_is_the_callers_and_leaves_nothing_behind() -> None:
    with NearCache(SharedLayer(), NOWHERE, cluster="eu") as cache:
        announce_a_worker(cache)
        with pytest.raises(AssertionError):
            cache.get_or_load("k", fail, ttl=60)
        assert not cache._copies._pending


async def test_the_same_for_asyncio() -> None:
    shared = AsyncSharedLayer()

    async def load() -> str:
        return "value"

    with AsyncNearCache(shared, NOWHERE, cluster="eu") as cache:
        announce_a_worker(cache)
        assert [await cache.get_or_load("k", load, ttl=60) for _ in range(4)] == ["value"] * 4
        assert (len(cache), shared.reads) == (1, 2)


def test_none_is_kept_too_and_for_as_long_as_negative_ttl() -> None:
    shared = SharedLayer()
    shared.values["k"] = None
    with NearCache(shared, NOWHERE, cluster="eu") as cache:
        announce_a_worker(cache)
        assert [cache.get_or_load("k", fail, ttl=60) for _ in range(3)] == [None] * 3
        assert shared.reads == 1
        shared.values["other"] = None
        assert [cache.get_or_load("other", fail, ttl=60, negative_ttl=0) for _ in range(3)] == [None] * 3
        assert shared.reads == 4
