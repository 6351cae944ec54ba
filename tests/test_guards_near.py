"""Guards of the near cache: each test is red without the line that it names."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY

from invalidator.app.near import cache as module
from invalidator.app.near import listener
from invalidator.app.near.cache import AsyncNearCache, NearCache
from invalidator.app.near.sequence import SILENCE_SECONDS, SequenceTracker
from invalidator.app.near.store import Copies
from invalidator.app.publish.message import broker_settings
from invalidator.broker.consume import listener as messages
from invalidator.broker.consume.listener import Feed
from invalidator.broker.messages import Announcement
from invalidator.broker.wire.delivery import Delivery
from invalidator.runtime import metrics
from invalidator.settings import BrokerSettings
from tests.test_near import NOWHERE, AsyncSharedLayer, SharedLayer, announce_a_worker, fail
from tests.test_near_store import Clock, announcement, begin


class Listening:
    """A thread that only records its work and its end."""

    started: list["Listening"]

    def __init__(self, work: Callable[[], Any], *, name: str) -> None:
        self.work, self.name, self.closed = work, name, 0
        self.started.append(self)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Listening]:
    """Record the listening threads instead of starting them."""
    Listening.started = []
    monkeypatch.setattr(module, "Background", Listening)
    return Listening.started


def test_one_thread_listens_from_the_first_read_until_the_end(started: list[Listening]) -> None:
    with NearCache(SharedLayer(), NOWHERE, cluster="eu") as cache:
        assert [] == started
        for _ in range(3):
            cache.get_or_load("k", lambda: "value", ttl=60)
        [listening] = started
        assert ("near cache of eu", 0) == (listening.name, listening.closed)
    assert 1 == listening.closed


def test_its_thread_listens_to_the_broker_that_it_was_given(
    started: list[Listening], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []
    monkeypatch.setattr(
        module, "listen", lambda broker, cluster, copies, *, role: heard.append((broker().url, cluster, role))
    )
    with NearCache(SharedLayer(), NOWHERE, cluster="eu") as cache:
        cache.get_or_load("k", lambda: "value", ttl=60)
        started[0].work()
    assert [(broker_settings(NOWHERE).url, "eu", "near")] == heard


def test_of_two_threads_that_read_first_one_starts_the_listening(started: list[Listening]) -> None:
    cache = NearCache(SharedLayer(), NOWHERE, cluster="eu")
    cache._listen()
    cache._listen()
    assert 1 == len(started)


def test_a_cache_that_was_never_read_closes_without_a_thread(started: list[Listening]) -> None:
    NearCache(SharedLayer(), NOWHERE, cluster="eu").close()
    assert [] == started


async def test_hits_and_misses_are_counted(started: list[Listening]) -> None:
    def counts() -> list[float]:
        name = "invalidator_near_reads_total"
        return [REGISTRY.get_sample_value(name, {"outcome": what}) or 0 for what in ("hit", "miss")]

    shared = SharedLayer()
    shared.values["k"] = "value"
    with NearCache(shared, NOWHERE, cluster="eu") as cache:
        announce_a_worker(cache)
        hits, misses = counts()
        for _ in range(3):
            cache.get_or_load("k", fail, ttl=60)
        assert [hits + 2, misses + 1] == counts()

    async def never() -> str:
        return fail()

    layer = AsyncSharedLayer()
    layer.values["k"] = "value"
    with AsyncNearCache(layer, NOWHERE, cluster="eu") as twin:
        announce_a_worker(twin)
        for _ in range(3):
            await twin.get_or_load("k", never, ttl=60)
    assert [hits + 4, misses + 2] == counts()


@pytest.mark.parametrize(
    ("value", "ttl", "negative_ttl", "is_kept"),
    [
        ("value", 60, 0, True),
        ("value", 60, None, True),
        ("value", 0, 60, False),
        (None, 60, None, True),
        (None, 0, None, False),
        (None, 60, 0, False),
        (None, 0, 60, True),
    ],
)
def test_a_value_is_kept_by_ttl_and_none_by_negative_ttl(
    value: object, ttl: float, negative_ttl: float | None, is_kept: bool, started: list[Listening]
) -> None:
    shared = SharedLayer()
    shared.values["k"] = value
    with NearCache(shared, NOWHERE, cluster="eu") as cache:
        announce_a_worker(cache)
        for _ in range(2):
            cache.get_or_load("k", fail, ttl=ttl, negative_ttl=negative_ttl)
    assert (1 if is_kept else 2) == shared.reads


async def test_an_asyncio_load_that_fails_leaves_no_pending_read(started: list[Listening]) -> None:
    async def load() -> str:
        raise LookupError

    cache = AsyncNearCache(AsyncSharedLayer(), NOWHERE, cluster="eu")
    announce_a_worker(cache)
    with pytest.raises(LookupError):
        await cache.get_or_load("k", load, ttl=60)
    assert {} == cache._copies._pending


# Listening


async def test_it_listens_to_its_cluster_and_a_message_expires_when_its_worker_counts_as_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies = Copies(size=10)
    feeds: list[Feed] = []

    async def listen(broker: Callable[[], BrokerSettings], feed: Any, receiver: Any, *, name: str) -> None:
        feeds.append(feed(broker()))
        receiver.linked()
        assert copies._linked
        body = msgspec.json.encode(Announcement("eu", "w1", 0))
        await receiver.received([Delivery(bytes(11), bytes(2), body)])
        assert copies._workers
        receiver.lost()
        assert name.startswith("invalidator near eu @")

    monkeypatch.setattr(messages, "listen", listen)
    await listener.listen(lambda: BrokerSettings(purged_exchange="purged"), "eu", copies, role="near")
    expected = Feed(
        "announcements for cluster eu", "purged", "invalidator-near.eu", routing_key="eu", max_age=SILENCE_SECONDS
    )
    assert [expected] == feeds
    assert not copies._linked


# The copies


def test_before_the_link_nothing_is_kept() -> None:
    copies = Copies(size=10, clock=Clock())
    copies.received(announcement(0))
    copies.keep(begin(copies), "value", max_age=10)
    assert 0 == len(copies)


def test_after_the_link_was_lost_nothing_is_kept_even_if_a_worker_is_heard() -> None:
    copies = Copies(size=10, clock=Clock())
    copies.linked()
    copies.lost()
    copies.received(announcement(0))
    copies.keep(begin(copies), "value", max_age=10)
    assert 0 == len(copies)


def test_a_read_that_ends_after_its_worker_went_silent_is_not_kept() -> None:
    clock = Clock()
    copies = Copies(size=10, clock=clock)
    copies.linked()
    copies.received(announcement(0))
    reading = begin(copies)
    clock.now += SILENCE_SECONDS
    copies.keep(reading, "value", max_age=1000)
    assert 0 == len(copies)
    assert copies.find("product:1") is None


@pytest.mark.parametrize("reason", ["link", "gap", "flush", "silence"])
def test_each_reason_to_forget_is_counted(reason: str) -> None:
    counter = metrics.NEAR_FORGOTTEN.labels(reason)
    clock = Clock()
    copies = Copies(size=10, clock=clock)
    copies.linked()
    copies.received(announcement(1, "k"))
    before = counter._value.get()
    match reason:
        case "link":
            copies.lost()
        case "gap":
            copies.received(announcement(3, "k"))
        case "flush":
            copies.received(announcement(2, everything=True))
        case "silence":
            clock.now += SILENCE_SECONDS
            copies.begin("k")
    assert before + 1 == counter._value.get()


def test_workers_that_were_cleared_do_not_expire() -> None:
    tracker = SequenceTracker()
    tracker.record(announcement(1), 100.0)
    assert tracker.expire_silent(100.0) is False
    tracker.clear()
    assert tracker.expire_silent(100.0 + SILENCE_SECONDS) is False
