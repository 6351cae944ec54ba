"""Finding out that no cluster is bound while the log is.

The broker returns a mandatory message only if no queue at all stored it, so with a log bound it returns none.
"""

from collections.abc import Iterable

from invalidator.broker.connection import Connection, connected
from invalidator.broker.declare import exists
from invalidator.broker.topology import Topology
from invalidator.errors import InvalidatorError, UnreachableError, UnroutableError
from invalidator.operate.durability import DECLARE
from invalidator.operate.findings import Finding, wrong
from invalidator.operate.management import Management
from invalidator.settings import Settings


async def assert_a_cluster_is_bound(settings: Settings) -> None:
    """Raise UnroutableError if the log alone would store an event.

    Without the management API only this cluster's queue, and those of `management.expect`, are known.
    """
    topology = Topology.of(settings)
    async with connected(settings, "publish") as connection:
        if await exists(connection, topology.log) and not await _is_a_cluster_bound(settings, topology, connection):
            raise UnroutableError(_said(topology))


def only_the_log(topology: Topology, bound: Iterable[str]) -> Finding | None:
    """Return the fault that the log is bound and no cluster, None if that is not so. Pure."""
    if topology.log not in bound or clusters_among(topology, bound):
        return None
    return wrong("broker", _said(topology), f"{DECLARE}, or start a worker", meaning=UnreachableError)


def clusters_among(topology: Topology, bound: Iterable[str]) -> list[str]:
    """Return the queues that may be a cluster's: not the log, and not those of listeners, which end with them. Pure."""
    listeners = ("invalidator-", f"{topology.prefix}-")
    return [queue for queue in bound if queue != topology.log and not queue.startswith(listeners)]


async def _is_a_cluster_bound(settings: Settings, topology: Topology, connection: Connection) -> bool:
    try:
        return bool(clusters_among(topology, await Management(settings).bound_queues(topology.exchange)))
    except InvalidatorError:
        expected = (f"{topology.prefix}.{cluster}" for cluster in settings.management.expect)
        return any([await exists(connection, queue) for queue in (topology.queue, *expected)])


def _said(topology: Topology) -> str:
    return f'no cluster is bound to the exchange "{topology.exchange}": only the log would store an event'
