"""Where keys are evicted: the nodes of each, by label and address, with nothing sent anywhere."""

from collections.abc import Iterable

from msgspec import Struct

from invalidator.settings import Settings
from invalidator.worker.parts import cluster_of


class PlacedKey(Struct, frozen=True):
    """A key as the application names it, and where it is evicted."""

    key: str
    #: What memcached sees: with `memcached.prefix` before it.
    stored_as: str
    #: Labels.
    nodes: list[str]


def placed(settings: Settings, keys: Iterable[bytes]) -> list[PlacedKey]:
    """Each key with the nodes that this configuration evicts it on."""
    cluster, prefix = cluster_of(settings), settings.memcached.prefix
    names = [(key, key.decode("ascii")) for key in keys]
    return [PlacedKey(name, prefix + name, list(cluster.placement(key))) for key, name in names]


def addresses(settings: Settings) -> dict[str, str]:
    """Label -> "host:port" of every node of the cluster."""
    return {
        label: f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        for label, (host, port) in settings.nodes().items()
    }
