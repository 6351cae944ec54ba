"""A memcached that can fail, and both caches over it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lying_memcached import LyingMemcached
from tests.twins.twin import Tasks, Threads, Twin


@pytest.fixture
def node() -> Iterator[LyingMemcached]:
    with LyingMemcached() as node:
        yield node


@pytest.fixture(params=[Threads, Tasks])
def twin(request: pytest.FixtureRequest) -> Iterator[Callable[..., Twin]]:
    made: list[Any] = []

    def make(*nodes: str, **options: Any) -> Twin:
        made.append(request.param(nodes, **({"timeout": 20, "patience": 0} | options)))
        twin: Twin = made[-1]
        return twin

    yield make
    for each in made:
        getattr(each, "end", each.close)()


@pytest.fixture
def long_cooldown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("invalidator.app.cache.nodes.node_state.COOLDOWN_SECONDS", 3600.0)
