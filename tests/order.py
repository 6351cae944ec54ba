"""The order of a run: which tests start first, which go to the same process, which belong to the quick run."""

from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

import pytest

#: Files that take longest: the processes that run tests side by side begin with them, so that none is left with a long
#: one when the others have finished.
FIRST = (
    *("test_handbook", "test_systemd", "test_faults", "test_faults_named", "test_outbox", "test_management_ui"),
    *("test_demo", "test_release", "test_public_names", "test_tls_of_the_broker", "test_readme", "test_replicas"),
    "test_any_message",
)
#: Files whose tests share a server of their own, and so go to one process.
GROUPS = (
    *("test_systemd", "test_faults_named", "test_outbox", "test_tls_of_the_broker", "test_broker_of_three"),
    *("test_replicas", "test_ring_against_clients", "test_release"),
)
#: Files whose first test belongs to the quick run: one or more for each room. They need RabbitMQ and memcached only.
QUICK = (
    *("test_worker", "test_parking", "test_memcached", "test_publishers", "test_rabbit_bus", "test_outbox"),
    *("test_lookaside", "test_async_lookaside", "test_near", "test_warmer", "test_dead", "test_status", "test_cli"),
    *("test_refusals", "test_foreign", "test_servers"),
)


def arrange(items: list[pytest.Item]) -> None:
    """Sort tests: long files with servers, other tests with servers, unit tests."""

    def rank(item: pytest.Item) -> int:
        if not _has_servers(item.nodeid):
            return len(FIRST) + 1
        file = _file(item.nodeid)
        return FIRST.index(file) if file in FIRST else len(FIRST)

    items.sort(key=rank)


def mark_quick(items: Iterable[pytest.Item]) -> None:
    """Mark unit tests and the first test of each file in QUICK."""
    first: dict[str, str] = {}
    for item in items:
        function = item.nodeid.partition("[")[0]
        if not _has_servers(item.nodeid) or (
            _file(item.nodeid) in QUICK and first.setdefault(_file(item.nodeid), function) == function
        ):
            item.add_marker(pytest.mark.quick)


def scheduler(config: pytest.Config, log: Any) -> Any:
    """Return pytest-xdist's scheduler for these groups: a test of none goes to whichever process is free."""
    from xdist.scheduler import LoadScopeScheduling

    def group(nodeid: str) -> str:
        if not _has_servers(nodeid):
            return nodeid
        if "quick" in config.option.markexpr:
            return "one broker"
        return _file(nodeid) if _file(nodeid) in GROUPS else nodeid

    config.option.loadscopereorder = False
    scheduling = LoadScopeScheduling(config, log)
    scheduling._split_scope = group
    return scheduling


def _file(nodeid: str) -> str:
    return PurePath(nodeid.partition("::")[0]).stem


def _has_servers(nodeid: str) -> bool:
    return "integration" in PurePath(nodeid.partition("::")[0]).parts
