"""Fixtures for pytest: write ``pytest_plugins = ["invalidator.testing.fixtures"]`` into your conftest.py."""

from collections.abc import Iterator

import pytest

from invalidator.app.cache.lookaside import LookAsideCache
from invalidator.testing.cluster import MemoryCluster, RulesSource


@pytest.fixture
def memory_rules() -> RulesSource:
    """Return the rules of `memory_cluster`: none. Override it with yours, or with the path of your invalidator.toml."""
    return ()


@pytest.fixture
def memory_cluster(memory_rules: RulesSource) -> Iterator[MemoryCluster]:
    """Yield an empty cluster. The test fails if an event would have become a dead letter."""
    cluster = MemoryCluster(memory_rules)
    yield cluster
    if cluster.dead:
        pytest.fail(
            "dead letters: " + ", ".join(f"{event.type} ({error.reason}): {error}" for event, error in cluster.dead)
        )


@pytest.fixture
def memory_cache(memory_cluster: MemoryCluster) -> LookAsideCache:
    """Return a cache that reads through `memory_cluster`."""
    return memory_cluster.serve(LookAsideCache(["memory:11211"]))
