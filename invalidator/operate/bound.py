"""Finding out that no cluster is bound while the log is.

The broker returns a mandatory message only if no queue at all stored it, so with a log bound it returns none.
"""

from invalidator.broker.connection import Connection, connected
from invalidator.broker.declare import exists
from invalidator.broker.topology import Topology
from invalidator.errors import InvalidatorError, UnroutableError
from invalidator.operate.management import Management
from invalidator.settings import Settings


async def assert_a_cluster_is_bound(settings: Settings) -> None:
    """Raise UnroutableError if the log alone would store an event.

    Without the management API only this cluster's queue, and those of `management.expect`, are known.
    """
    topology = Topology.of(settings)
    async with connected(settings, "publish") as connection:
        if await exists(connection, topology.log) and not await _is_a_cluster_bound(settings, topology, connection):
            raise UnroutableError(
                f'no cluster is bound to the exchange "{topology.exchange}": only the log would store the event'
            )


async def _is_a_cluster_bound(settings: Settings, topology: Topology, connection: Connection) -> bool:
    try:
        return bool({*await Management(settings).bound_queues(topology.exchange)} - {topology.log})
    except InvalidatorError:
        expected = (f"{topology.prefix}.{cluster}" for cluster in settings.management.expect)
        return any([await exists(connection, queue) for queue in (topology.queue, *expected)])
