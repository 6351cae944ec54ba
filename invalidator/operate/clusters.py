"""Which clusters there are: those that the settings name, or whose queues are bound to the exchange."""

from invalidator.broker.topology import Topology
from invalidator.errors import InvalidatorError
from invalidator.operate.management import Management
from invalidator.settings import Settings


async def expected_clusters(settings: Settings) -> list[str]:
    """Every cluster that gets a copy of each event.

    Raises:
        InvalidatorError: the management API cannot be asked, and the settings name none.
    """
    if settings.management.expect:
        return list(settings.management.expect)
    try:
        bound = await Management(settings).bound_queues(settings.broker.exchange)
    except InvalidatorError as error:
        raise type(error)(f"{error}; or name the clusters in management.expect") from error
    return sorted(filter(None, (cluster_of_queue(settings, queue) for queue in bound)))


def cluster_of_queue(settings: Settings, queue: str) -> str | None:
    """The cluster that a queue belongs to, going by its name; None for somebody else's queue."""
    topology = Topology.of(settings)
    if queue == topology.queue:
        return settings.cluster
    prefix = f"{topology.prefix}."
    return queue.removeprefix(prefix) if queue.startswith(prefix) else None
