"""Act 4: a broker between the service and the clusters, with workers that evict."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingConnection

from invalidator.app.publish.message import message
from invalidator.broker.publish.confirms import properties_of

from .acts import Act, Say, describe, one_by_one
from .figures import duration, summary
from .measure import DEADLINE, FIRST_PRICE, Shop, StaleError, open_shop
from .stores import Address, Nodes, memcached_store
from .workers import Workers

EXCHANGE = "product.updates"


class FanoutBus:
    """Publishes the service's events to the fanout exchange, confirmed; fails if no queue is bound to it."""

    def __init__(self, connection: BlockingConnection) -> None:
        self._channel = connection.channel()
        self._channel.confirm_delivery()

    def publish(self, event_type: str, data: Mapping[str, Any]) -> None:
        event = message(event_type, data, app_id="invalidator demo")
        self._channel.basic_publish(EXCHANGE, "", event.body, properties_of(event.properties()), mandatory=True)


def fanout(workers: Workers, clusters: Mapping[str, Sequence[Address]], broker: str, say: Say, *, updates: int) -> Act:
    """Play act 4. The workers must have been started."""
    say(f"Starting {len(workers)} workers, {workers.each} for each of {' and '.join(clusters)} ...")
    started = time.monotonic()
    nodes = [Nodes(addresses) for addresses in clusters.values()]
    stores = {name: memcached_store(addresses) for name, addresses in clusters.items()}
    workers.wait_until_ready()
    say(f"Ready after {duration(time.monotonic() - started)}. Each consumes from its cluster's queue.")
    with BlockingConnection(pika.URLParameters(broker)) as connection, open_shop(FanoutBus(connection), stores) as shop:
        _one_event(shop, nodes, say)
        return _many_events(shop, nodes, say, updates=updates)


def _one_event(shop: Shop, nodes: Sequence[Nodes], say: Say) -> None:
    """Put a copy on every node, publish one event, and wait until every copy is gone."""
    copies = sum(len(cluster.addresses) for cluster in nodes)
    for cluster in nodes:
        cluster.put("product:1", b"old")
    say(f"{copies} nodes hold a copy of product 1. The service publishes one event to {EXCHANGE} ...")
    committed = shop.service.change_price("1", FIRST_PRICE + 10)
    while left := sum(cluster.copies("product:1") for cluster in nodes):
        if time.monotonic() > committed + DEADLINE:
            raise StaleError(
                f"{left} of {copies} copies of product 1 are still there {duration(DEADLINE)} after the event"
            )
    say(f"{duration(time.monotonic() - committed)} after the commit no copy is left on any of them.")
    for cache in shop.caches:
        cache.product("1")


def _many_events(shop: Shop, nodes: Sequence[Nodes], say: Say, *, updates: int) -> Act:
    """Do what act 3 did, across processes."""
    shop.service.loads = 0
    before = sum(cluster.evicted() for cluster in nodes)
    watched = one_by_one(shop, updates)
    evicted = sum(cluster.evicted() for cluster in nodes) - before
    say(
        f"{updates} updates: old prices were served for {summary(watched.staleness)}. "
        f"memcached itself counted {evicted} evictions of {len(watched.staleness)} old copies."
    )
    say(
        "The service only knows the name of an exchange. Every queue that is bound to it gets the event, for any "
        "process in any cluster, and keeps it for a process that has crashed."
    )
    knows = "both: the exchange's name"
    return describe("4 RabbitMQ", shop, watched, evicted=evicted, knows=knows)
