"""`invalidator.testing`: an application's own tests, without servers.

``integration/test_model.py`` compares its memcached with the real one.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from invalidator.app import (
    AsyncLookAsideCache,
    Event,
    IncompleteError,
    LookAsideCache,
    PoisonError,
    Publisher,
    UnconfirmedError,
)
from invalidator.testing import AsyncRecordingPublisher, MemoryCluster, RecordingPublisher

EXAMPLES = Path(__file__).parents[1] / "conf" / "examples"
RULES = [{"on": "product_updated", "evict": ["product:{id}", "product:{id}:reviews"]}]


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster(RULES)


@pytest.fixture
def cache(cluster: MemoryCluster) -> LookAsideCache:
    return cluster.serve(LookAsideCache(["unused:11211"]))


def test_a_published_change_is_evicted_before_publish_returns(cluster: MemoryCluster, cache: LookAsideCache) -> None:
    prices = iter([119.99, 109.99])
    assert [119.99, 119.99] == [cache.get_or_load("product:17", lambda: next(prices), ttl=60) for _ in range(2)]
    cluster.publisher.publish("product_updated", {"id": 17})
    assert 109.99 == cache.get_or_load("product:17", lambda: next(prices), ttl=60)
    assert ["product:17", "product:17:reviews"] == cluster.evicted


def test_a_value_evicted_while_it_is_loaded_is_served_and_not_stored(
    cluster: MemoryCluster, cache: LookAsideCache
) -> None:
    def load() -> str:
        cluster.publisher.publish("product_updated", {"id": 17})
        return "old"

    assert "old" == cache.get_or_load("product:17", load, ttl=60)
    assert "new" == cache.get_or_load("product:17", lambda: "new", ttl=60)


def test_an_asyncio_cache_and_a_blocking_one_share_the_memcached(cluster: MemoryCluster, cache: LookAsideCache) -> None:
    async def load() -> str:
        return "value"

    twin = cluster.serve(AsyncLookAsideCache(["unused:11211"]))
    assert "value" == asyncio.run(twin.get_or_load("product:17", load, ttl=60))
    assert "value" == cache.get_or_load("product:17", lambda: "not loaded again", ttl=60)


def test_many_keys_are_read_together(cluster: MemoryCluster, cache: LookAsideCache) -> None:
    loaded: list[list[str]] = []

    def load(keys: list[str]) -> dict[str, str]:
        loaded.append(keys)
        return {key: key.upper() for key in keys}

    for keys in (["a", "b"], ["a", "b", "c"]):
        assert {key: key.upper() for key in keys} == cache.get_many_or_load(keys, load, ttl=60)
    assert [["a", "b"], ["c"]] == loaded


def test_what_memcached_would_not_store_is_not_cached(cluster: MemoryCluster, cache: LookAsideCache) -> None:
    for key, value in {"with space": "small", "large": "x" * (1 << 20)}.items():
        for _ in range(2):
            assert value == cache.get_or_load(key, lambda value=value: value, ttl=60)  # type: ignore[misc]
        assert cluster.memcached.get(key) is None


def test_a_publisher_that_waits_gets_the_clusters_receipt(cluster: MemoryCluster) -> None:
    receipt = cluster.publisher.publish("product_updated", {"id": 17}, wait=0.2)
    assert receipt
    assert (2, True) == (receipt.evicted, receipt.is_gone)
    assert cluster.publisher.publish("product_updated", {"id": 17}) is None


def test_an_event_is_recorded_as_a_worker_reads_it() -> None:
    publisher = RecordingPublisher()
    publisher.publish("product_updated", {"id": 17, "price": Decimal("109.90")})
    assert [Event("product_updated", {"id": 17, "price": "109.90"})] == publisher.events


def test_an_event_that_no_worker_could_read_is_refused_as_publish_refuses_it() -> None:
    publisher = RecordingPublisher()
    with pytest.raises(PoisonError):
        publisher.publish("product_updated", {"price": float("nan")})
    with pytest.raises(IncompleteError) as raised:
        publisher.publish_many([Event("a", {}), Event("", {}), Event("c", {})])
    assert [Event("a", {})] == publisher.events
    assert (1, (1,)) == (len(publisher.events), raised.value.unconfirmed)


def test_a_failure_is_raised_by_every_publish(cluster: MemoryCluster) -> None:
    cluster.publisher.failure = UnconfirmedError("not confirmed within 1 s")
    with pytest.raises(UnconfirmedError):
        cluster.publisher.publish("product_updated", {"id": 17})
    with pytest.raises(UnconfirmedError):
        asyncio.run(cluster.async_publisher.publish("product_updated", {"id": 17}))
    with pytest.raises(IncompleteError):
        cluster.publisher.publish_many([Event("product_updated", {"id": 17})])
    assert ([], []) == (cluster.events, cluster.evicted)


def test_many_events_of_which_one_fails_say_where(cluster: MemoryCluster) -> None:
    def events() -> Iterator[Event]:
        yield Event("product_updated", {"id": 17})
        cluster.publisher.failure = UnconfirmedError("not confirmed within 1 s")
        yield Event("product_updated", {"id": 18})

    with pytest.raises(IncompleteError) as raised:
        cluster.publisher.publish_many(events())
    assert 1 == raised.value.unsent


def test_an_event_without_a_field_that_a_rule_needs_is_a_dead_letter(cluster: MemoryCluster) -> None:
    cluster.publisher.publish("product_updated", {"price": 1})
    ((event, error),) = cluster.dead
    assert ({"price": 1}, "missing-field") == (event.fields, error.reason)


def test_rules_come_from_a_configuration_file_whose_secrets_are_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "invalidator.toml"
    file.write_text(
        """
        broker.password_file = "/nowhere"
        rule = [{ on = "product_updated", evict = ["product:{id}"] }]
        """
    )
    cluster = MemoryCluster(file)
    cluster.publisher.publish("product_updated", {"id": 17})
    assert ["product:17"] == cluster.evicted


@pytest.mark.parametrize("recording", [RecordingPublisher, AsyncRecordingPublisher])
def test_a_recording_publisher_has_every_method_of_the_real_one(recording: type) -> None:
    assert [] == [name for name in dir(Publisher) if not name.startswith("_") and not hasattr(recording, name)]


def test_the_example_of_tests_passes() -> None:
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLES / "test_shop.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_a_dead_letter_that_nobody_expected_fails_the_test(pytester_file: Path) -> None:
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(pytester_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "1 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "dead letters: product_updated (missing-field)" in done.stdout


@pytest.fixture
def pytester_file(tmp_path: Path) -> Path:
    file = tmp_path / "test_of_a_shop.py"
    file.write_text(
        """
import pytest

pytest_plugins = ["invalidator.testing.fixtures"]

@pytest.fixture
def memory_rules():
    return [{"on": "product_updated", "evict": ["product:{id}"]}]

def test_a_publisher_forgets_the_id(memory_cluster, memory_cache):
    memory_cluster.publisher.publish("product_updated", {})
"""
    )
    return file
