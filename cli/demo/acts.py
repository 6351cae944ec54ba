"""The acts that need no broker: no invalidation, polling, and a bus in this process."""

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from invalidator.app.publish.bus import LocalEventBus

from .figures import duration, summary
from .measure import FIRST_PRICE, PRODUCTS, Shop, Watched, change_and_watch, change_until_fresh, open_shop
from .shop import PRODUCT_UPDATED, ProductCache, Store

#: Prints a line of narration.
Say = Callable[[str], None]
Stores = Mapping[str, Store]

#: Seconds that the first act waits for the new price, which never comes.
PATIENCE = 1.0
CHANGES_A_SECOND = 3


@dataclass(frozen=True)
class Act:
    """One way to keep caches fresh, and its measured cost."""

    name: str
    watched: Watched
    #: Queries for changes, and queries that loaded a product again.
    polls: int
    reloads: int
    #: Copies that became old, and those of them that were evicted.
    outdated: int
    evicted: int
    #: The knowledge that caches and service need of each other.
    knows: str


class _NoBus:
    """A bus without subscribers."""

    def publish(self, event_type: str, data: Mapping[str, Any]) -> None:
        pass


def no_invalidation(stores: Stores, say: Say) -> Act:
    """Play act 1: change a price, and watch the caches serve the old one."""
    price = FIRST_PRICE + 10
    with open_shop(_NoBus(), stores) as shop:
        say(f"Product 1 costs {FIRST_PRICE:.2f}, and the caches {_names(shop)} hold a copy. Now it costs {price:.2f}.")
        watched = change_and_watch(shop, {"1": price}, within=PATIENCE)
        say(
            f"In the {duration(PATIENCE)} since then, {watched.old_reads:,} of {watched.reads:,} reads got the old "
            "price. So will all later reads: a copy without an expiry time stays for ever."
        )
        return describe("1 nothing", shop, watched, knows="nothing")


def polling(stores: Stores, say: Say, *, polls: int) -> Act:
    """Play act 2: change prices for `polls` seconds, and poll until every cache serves the new ones."""
    changes = min(polls * CHANGES_A_SECOND, PRODUCTS)
    moments = sorted(random.uniform(0, polls - 0.1) for _ in range(changes))
    pauses = [after - before for before, after in zip([0.0, *moments], moments, strict=False)]
    prices = {str(number): FIRST_PRICE + number for number in range(1, changes + 1)}
    with open_shop(_NoBus(), stores) as shop:
        say(f"Each cache polls the database once a second. {changes} prices will change, at random moments.")
        with _polled(shop, say):
            watched = change_until_fresh(shop, prices, pauses=pauses)
        say(
            f"Old prices were served for {summary(watched.staleness)}. Even if nothing changes, this rate costs "
            f"{len(shop.caches) * 86_400:,} queries a day."
        )
        return describe("2 polling", shop, watched, knows="caches: the service's table")


@contextmanager
def _polled(shop: Shop, say: Say) -> Iterator[None]:
    """Poll once a second in a thread, from entering to leaving."""
    over = threading.Event()
    poller = threading.Thread(target=_poll, args=(shop, over, say))
    poller.start()
    try:
        yield
    finally:
        over.set()
        poller.join()


def _poll(shop: Shop, over: threading.Event, say: Say) -> None:
    start = time.monotonic()
    revisions = {cache.name: 0 for cache in shop.caches}
    for second in itertools.count(1):
        if over.wait(max(0.0, start + second - time.monotonic())):
            return
        found = sum(_poll_once(shop, cache, revisions) for cache in shop.caches)
        say(f"  second {second}: {len(shop.caches)} queries, {found} old copies dropped")


def _poll_once(shop: Shop, cache: ProductCache, revisions: dict[str, int]) -> int:
    changed = shop.service.changed_since(revisions[cache.name])
    for product in changed:
        cache.drop(product.id)
        revisions[cache.name] = product.revision
    return len(changed)


def local_bus(stores: Stores, say: Say, *, updates: int) -> Act:
    """Play act 3: publish each change to a bus that the caches subscribe to."""
    bus = LocalEventBus()
    with open_shop(bus, stores) as shop:
        for cache in shop.caches:
            bus.subscribe(PRODUCT_UPDATED, cache.on_product_updated)
        say(
            f"The service publishes {PRODUCT_UPDATED} with the product's id. The caches {_names(shop)} have subscribed."
        )
        watched = one_by_one(shop, updates)
        say(f"{updates} updates: old prices were served for {summary(watched.staleness)}, and nobody had to poll.")
        say(
            "The service does not know the caches, and one event reaches them all. But the bus works only inside this "
            "process, and a cache that fails at that moment misses the event for good."
        )
        return describe("3 local bus", shop, watched, knows="both: a local bus")


def one_by_one(shop: Shop, updates: int) -> Watched:
    """Change one price after another, each after every reader has seen the one before."""
    watched = Watched()
    for number in range(updates):
        product, price = str(number % PRODUCTS + 1), round(FIRST_PRICE + 1 + number, 2)
        watched += change_until_fresh(shop, {product: price})
    return watched


def describe(name: str, shop: Shop, watched: Watched, *, knows: str, evicted: int | None = None) -> Act:
    """Return the act's figures. Pass `evicted` if others than the caches themselves evicted the copies."""
    return Act(
        name,
        watched,
        polls=shop.service.polls,
        reloads=shop.service.loads,
        outdated=watched.changes * len(shop.caches),
        evicted=sum(cache.dropped for cache in shop.caches) if evicted is None else evicted,
        knows=knows,
    )


def _names(shop: Shop) -> str:
    return " and ".join(cache.name for cache in shop.caches)
