"""The acts that need no broker: tell nobody, ask every second, tell everybody in this process."""

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from invalidator.app.publish.bus import LocalEventBus

from .figures import duration, summary
from .measure import FIRST_PRICE, PRODUCTS, Shop, Watched, change_and_watch, change_until_fresh, open_shop
from .shop import PRODUCT_UPDATED, ProductCache, Store

#: Prints a line of narration.
Say = Callable[[str], None]
Stores = Mapping[str, Store]

#: Seconds that the first act waits for a new price that never comes.
PATIENCE = 1.0
CHANGES_A_SECOND = 3


@dataclass(frozen=True)
class Act:
    """One way to keep caches fresh, and what it cost; all of it measured."""

    name: str
    watched: Watched
    #: Queries that asked the database what changed, and those that fetched a product again.
    polls: int
    reloads: int
    #: Copies that became old, and those of them that were thrown out.
    outdated: int
    evicted: int
    #: Who has to know whom.
    knows: str


class _Nobody:
    """A bus that leads nowhere."""

    def publish(self, event_type: str, data: Mapping[str, Any]) -> None:
        pass


def no_invalidation(stores: Stores, say: Say) -> Act:
    """Act 1."""
    price = FIRST_PRICE + 10
    with open_shop(_Nobody(), stores) as shop:
        say(f"Product 1 costs {FIRST_PRICE:.2f}, and the caches {_names(shop)} hold a copy. Now it costs {price:.2f}.")
        watched = change_and_watch(shop, {"1": price}, within=PATIENCE)
        say(
            f"In the {duration(PATIENCE)} since, {watched.old_reads:,} of {watched.reads:,} reads got the old price. "
            "So will all later ones: a copy without an expiry time does not leave by itself."
        )
        return describe("1 nothing", shop, watched, knows="nobody")


def polling(stores: Stores, say: Say, *, polls: int) -> Act:
    """Act 2, for as many seconds as there are polls."""
    changes = min(polls * CHANGES_A_SECOND, PRODUCTS)
    moments = sorted(random.uniform(0, polls - 0.1) for _ in range(changes))
    pauses = [after - before for before, after in zip([0.0, *moments], moments, strict=False)]
    with open_shop(_Nobody(), stores) as shop:
        say(f"Each cache asks the database once a second what changed. {changes} prices will, at random moments.")
        poller = threading.Thread(target=_poll, args=(shop, polls, say))
        poller.start()
        prices = {str(number): FIRST_PRICE + number for number in range(1, changes + 1)}
        watched = change_until_fresh(shop, prices, pauses=pauses)
        poller.join()
        say(
            f"Old prices were served for {summary(watched.staleness)}. Whether anything changes or not, "
            f"at this rate it is {len(shop.caches) * 86_400:,} queries a day."
        )
        return describe("2 polling", shop, watched, knows="caches: the service's table")


def _poll(shop: Shop, polls: int, say: Say) -> None:
    start = time.monotonic()
    revisions = {cache.name: 0 for cache in shop.caches}
    for second in range(1, polls + 1):
        time.sleep(max(0.0, start + second - time.monotonic()))
        found = sum(_poll_once(shop, cache, revisions) for cache in shop.caches)
        say(f"  second {second}: {len(shop.caches)} queries, {found} old copies dropped")


def _poll_once(shop: Shop, cache: ProductCache, revisions: dict[str, int]) -> int:
    changed = shop.service.changed_since(revisions[cache.name])
    for product in changed:
        cache.drop(product.id)
        revisions[cache.name] = product.revision
    return len(changed)


def local_bus(stores: Stores, say: Say, *, updates: int) -> Act:
    """Act 3."""
    bus = LocalEventBus()
    with open_shop(bus, stores) as shop:
        for cache in shop.caches:
            bus.subscribe(PRODUCT_UPDATED, cache.on_product_updated)
        say(
            f"The service publishes {PRODUCT_UPDATED} with the product's id; the caches {_names(shop)} have subscribed."
        )
        watched = one_by_one(shop, updates)
        say(f"{updates} updates: old prices were served for {summary(watched.staleness)}, and nobody had to ask.")
        say(
            "The service knows no cache, and one event reaches them all. But only in its own process; "
            "and a cache that fails at that moment is not told again."
        )
        return describe("3 local bus", shop, watched, knows="both: a local bus")


def one_by_one(shop: Shop, updates: int) -> Watched:
    """Change one price after another, each when every reader has seen the one before."""
    watched = Watched()
    for number in range(updates):
        product, price = str(number % PRODUCTS + 1), round(FIRST_PRICE + 1 + number, 2)
        watched += change_until_fresh(shop, {product: price})
    return watched


def describe(name: str, shop: Shop, watched: Watched, *, knows: str, evicted: int | None = None) -> Act:
    """The act's figures. `evicted` is given where others than the caches themselves threw copies out."""
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
