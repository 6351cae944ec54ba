"""The keys that a warmer reads again, their order and their rate, with no server and no waiting."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from invalidator.broker.messages import Announcement
from invalidator.errors import ConfigurationError
from invalidator.runtime import metrics
from invalidator.settings import WarmerSettings
from invalidator.warmer import Refill, Refills, Warmer, loader_of
from tests.logs import capture_logs


def announced(*keys: str) -> Announcement:
    return Announcement("eu", "w1", 1, list(keys))


def outcomes(name: str) -> float:
    return float(metrics.WARMED.labels(name)._value.get())


class Shop:
    """An application: the keys that it read again, and the warmer's rests between them."""

    def __init__(self, *cold: str) -> None:
        self.read: list[str] = []
        self.rests: list[float] = []
        self._cold = cold

    def refill(self, key: str) -> Refill | None:
        return None if key in self._cold else lambda: self.read.append(key)

    async def rest(self, seconds: float) -> None:
        self.rests.append(seconds)
        await asyncio.sleep(0)


def found(key: str) -> Refill | None:
    """Stand in for a loader: no key is hot."""
    return None


async def warmed(warmer: Warmer, until: Callable[[], bool]) -> None:
    running = asyncio.create_task(warmer.warm())
    async with asyncio.timeout(20):
        while not until():
            await asyncio.sleep(0)
    running.cancel()


async def test_hot_keys_are_read_again_the_newest_first_and_cold_ones_not() -> None:
    shop = Shop("b")
    warmer = Warmer(WarmerSettings(rate=20, concurrency=1), shop.refill, sleep=shop.rest)
    warmer.received(announced("a", "b", "c"))
    warmer.received(announced("d"))
    await warmed(warmer, lambda: len(shop.read) == 3)
    assert shop.read == ["d", "c", "a"]
    assert set(shop.rests) == {0.05}


async def test_a_key_evicted_again_while_it_waits_is_read_once_and_is_the_newest() -> None:
    shop = Shop()
    warmer = Warmer(WarmerSettings(concurrency=1), shop.refill, sleep=shop.rest)
    warmer.received(announced("a", "b", "a"))
    await warmed(warmer, lambda: len(shop.read) == 2)
    assert shop.read == ["a", "b"]


async def test_when_too_many_keys_wait_the_oldest_are_dropped_and_counted() -> None:
    waiting, before = Refills(2), outcomes("dropped")
    for key in ("a", "b", "c", "d"):
        waiting.put(key, lambda: None)
    assert [(await waiting.newest())[0] for _ in range(2)] == ["d", "c"]
    assert (len(waiting), outcomes("dropped") - before) == (0, 2)


async def test_no_more_are_read_at_a_time_than_there_are_places() -> None:
    entered, leave = threading.Semaphore(0), threading.Event()

    def refill(key: str) -> Refill:
        def read() -> None:
            entered.release()
            leave.wait(20)

        return read

    warmer = Warmer(WarmerSettings(concurrency=2), refill, sleep=Shop().rest)
    warmer.received(announced(*"abcdef"))
    running = asyncio.create_task(warmer.warm())
    for _ in range(2):
        assert await asyncio.to_thread(entered.acquire, timeout=20)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not entered.acquire(blocking=False)
    leave.set()
    for _ in range(4):
        assert await asyncio.to_thread(entered.acquire, timeout=20)
    running.cancel()


async def test_a_loader_or_a_read_that_fails_is_logged_counted_and_stops_nothing() -> None:
    shop, before = Shop(), outcomes("failed")

    def fail() -> None:
        raise ZeroDivisionError

    def refill(key: str) -> Refill | None:
        if key == "bad loader":
            fail()
        return fail if key == "bad read" else shop.refill(key)

    warmer = Warmer(WarmerSettings(concurrency=1), refill, sleep=shop.rest)
    with capture_logs() as logs:
        warmer.received(announced("good", "bad read", "bad loader"))
        await warmed(warmer, lambda: shop.read == ["good"])
    assert outcomes("failed") - before == 2
    assert ["bad loader", "bad read"] == [line["key"] for line in logs if line["log_level"] == "error"]


def test_a_loader_is_found_by_its_name() -> None:
    assert loader_of("tests.test_warmer:found")("product:7") is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (None, "no loader is named"),
        ("shop.nowhere:refill", "No module named 'shop'"),
        ("tests.test_warmer:nothing", "nothing"),
        ("tests.test_warmer", "is not a function"),
        ("not a name", "cannot be imported"),
    ],
)
def test_a_loader_that_cannot_be_used_is_a_configuration_error(name: str | None, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        loader_of(name)
