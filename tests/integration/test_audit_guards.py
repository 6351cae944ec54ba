"""The guards of the sandwich on real servers: the row or the item changes at the worst moment, between two looks."""

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from invalidator.audit.auditor import Auditor
from invalidator.audit.verdict import Verdict
from tests.integration.auditing import auditing, findings
from tests.integration.conftest import MemcachedFactory
from tests.integration.shop import eventually, publishing, working
from tests.integration.test_audit import NEW, OLD, Shop, as_json, audited, counted
from tests.servers import Memcached

K = "product:1"
NEWER = {"price": 119.99}


class Interleaved(Shop):
    """A source whose reads are the moments at which something happens: the first comes with the event.

    The second is inside of the sandwich: the nodes were asked, and are asked again afterwards.
    """

    def __init__(self, *contents: object, inside: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._contents = list(contents)
        self._inside = inside

    def _read(self, key: str) -> object:
        self.reads += 1
        if self.reads > 1:
            self._inside()
        return self._contents[min(self.reads, len(self._contents)) - 1]


async def verdicts(shop: Interleaved, vhost: str, node: Memcached, folder: Path) -> dict[Verdict, int]:
    """Return the verdicts on one event. There is one check, whose stale value would be reported."""
    settings = audited(vhost, [node], folder, delays=[0.05])
    async with working(replace(settings, cluster="us")):
        pass  # the exchanges exist, and the auditor's cluster has no queue
    async with auditing(Auditor(settings, shop.source)), publishing(vhost) as publisher:
        await publisher.update(1)
        await eventually(lambda: counted(settings))
    counts = counted(settings)
    assert 2 == shop.reads
    assert ({K} if Verdict.PERMANENT in counts else set()) == findings(settings).keys()
    return counts


async def test_the_same_moments_without_a_change_are_an_alarm(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    node = memcached()
    node.set(K, as_json(OLD))
    assert {Verdict.PERMANENT: 1} == await verdicts(Interleaved(NEW), vhost, node, tmp_path)


@pytest.mark.parametrize(
    "change", [lambda node: node.delete(K), lambda node: node.set(K, as_json(OLD))], ids=["evicted", "stored again"]
)
async def test_an_item_that_changes_while_the_source_is_read_is_no_alarm(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path, change: Callable[[Memcached], object]
) -> None:
    node = memcached()
    node.set(K, as_json(OLD))
    shop = Interleaved(NEW, inside=lambda: change(node))
    assert {Verdict.UNCLEAR: 1} == await verdicts(shop, vhost, node, tmp_path)


async def test_a_node_that_restarts_while_the_source_is_read_is_no_alarm_though_the_item_has_the_same_number(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    node = memcached()
    node.set(K, as_json(OLD))

    def restart() -> None:
        node.restart()
        node.set(K, as_json(OLD))

    assert {Verdict.UNCLEAR: 1} == await verdicts(Interleaved(NEW, inside=restart), vhost, node, tmp_path)


async def test_a_row_that_changes_before_its_event_comes_is_no_alarm(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    node = memcached()
    node.set(K, as_json(NEW))  # right, until the row changes once more
    assert {Verdict.UNCLEAR: 1} == await verdicts(Interleaved(NEW, NEWER), vhost, node, tmp_path)
