"""Act 7: a client stores an old price after the eviction, and `invalidator audit` finds, explains and removes it.

the price changes ─> event ─> evicted ─> a plain set of the old price ················ removed ─> the new price
                       └────> auditor: old after 0.1 s ─> still old after 1 s ─> why? ──┘
"""

import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pika
from pika.adapters.blocking_connection import BlockingConnection

from invalidator.audit.account import Finding, SavedAccount
from invalidator.audit.verdict import Reason

from .acts import Say
from .fanout import FanoutBus
from .figures import duration
from .measure import DEADLINE, FIRST_PRICE, StaleError
from .shop import Product, ProductCache, ProductService, Store
from .stores import Address, memcached_store
from .workers import Workers

CLUSTER = "eu"
SOURCE = "invalidator_cli.demo.audited:source"
#: Environment variable that passes the shop's database to the auditor's process.
DATABASE = "DEMO_DATABASE"
#: Seconds after a change at which the auditor compares: fewer than the default, which ends after a minute.
DELAYS = [0.1, 1.0]
ID, KEY = "1", "product:1"
NEW_PRICE = FIRST_PRICE + 10
#: Seconds between two customers.
PAUSE = 0.01
#: Times at most that the old price is stored.
TRIES = 10


@dataclass(frozen=True)
class AuditedShop:
    """The service, a cache with plain look-aside, and the auditor's files."""

    service: ProductService
    store: Store
    cache: ProductCache
    #: The file of the auditor's account, and its environment variables.
    account: Path
    environment: Mapping[str, str]


class Planted(NamedTuple):
    """When the price was changed, its copies were evicted, and the old one was stored, in seconds of the clock."""

    changed: float
    evicted: float
    stored: float


def source(key: str) -> Callable[[], object] | None:
    """Return the function that reads a product's truth from the database, for `invalidator audit --source`."""
    kind, _, id = key.partition(":")
    return (lambda: asdict(_row(Path(os.environ[DATABASE]), id))) if kind == "product" else None


def audit(workers: Workers, addresses: Sequence[Address], broker: str, say: Say) -> None:
    """Play act 7 on one cluster. Its workers must be consuming."""
    with _open_shop(addresses, broker) as shop:
        old = shop.cache.product(ID)
        with workers.auditor(CLUSTER, SOURCE, shop.environment):
            say(
                "invalidator audit receives the events too. It compares the keys of each with the database "
                f"{' and '.join(f'{delay:g}' for delay in DELAYS)} s later."
            )
            _plant_and_wait(shop, old, say)
        (finding,) = _findings(shop.account)  # an auditor that was stopped has saved them
    say(_explained(finding))


def _plant_and_wait(shop: AuditedShop, old: Product, say: Say) -> None:
    """Change the price, store the old one after the eviction, and read until it is gone."""
    planted = _plant(shop, old)

    def tell(text: str, at: float) -> None:
        say(f"{at - planted.changed:5.2f} s  {text}")

    tell(f"The price becomes {NEW_PRICE:.2f}, and the event is published.", planted.changed)
    tell("Every copy is evicted, and the eviction is announced.", planted.evicted)
    plain_set = f"with a plain set: {old.price:.2f} without an expiry time"
    tell(f"A client that had loaded the old product stores it, {plain_set}.", planted.stored)
    customers = _until(lambda: shop.cache.product(ID).price == NEW_PRICE, "removed by the auditor")
    tell(
        f"{customers} customers have seen the old price. Now the next one sees {NEW_PRICE:.2f} again.", time.monotonic()
    )


def _plant(shop: AuditedShop, old: Product) -> Planted:
    """Change the price, and store the old one after the eviction.

    The auditor has to find it at its last look. So if a busy machine was slow, this begins again, with a new event.
    """
    for _ in range(TRIES):
        changed = shop.service.change_price(ID, NEW_PRICE)
        _until(lambda: shop.store.get(KEY) is None, "evicted")
        evicted = time.monotonic()
        shop.store.set(KEY, json.dumps(asdict(old)).encode())
        planted = Planted(changed, evicted, stored=time.monotonic())
        if planted.stored - changed < DELAYS[-1] / 2:
            break
    return planted


def _until(is_so: Callable[[], bool], what: str) -> int:
    """Wait, and return how often it was not so; raise `StaleError` if it takes too long."""
    deadline, times = time.monotonic() + DEADLINE, 0
    while not is_so():
        if time.monotonic() > deadline:
            raise StaleError(f"the old copy of product {ID} was not {what} within {duration(DEADLINE)}")
        times += 1
        time.sleep(PAUSE)
    return times


def _explained(finding: Finding) -> str:
    why = (
        ": the eviction was announced, so somebody stored it afterwards"
        if finding.reason is Reason.WRITTEN_BACK
        else ""
    )
    return (
        f"The auditor saw it stay for a second, removed it, and says why: {finding.key} on node {finding.node} was "
        f"{finding.reason.value}{why}. invalidator audit report lists such values, and how rare they are."
    )


def _findings(account: Path) -> list[Finding]:
    with closing(SavedAccount(account)) as saved:
        return saved.findings(10)


@contextmanager
def _open_shop(addresses: Sequence[Address], broker: str) -> Iterator[AuditedShop]:
    with (
        tempfile.TemporaryDirectory(prefix="invalidator-demo-") as folder,
        BlockingConnection(pika.URLParameters(broker)) as connection,
    ):
        file, account = Path(folder, "shop.sqlite"), Path(folder, "account.sqlite")
        options: dict[str, Any] = {"account": str(account), "share": 1.0, "reads": 100.0, "delays": DELAYS}
        environment = {f"INVALIDATOR_AUDIT__{name.upper()}": _text(value) for name, value in options.items()}
        with (
            closing(ProductService(file, FanoutBus(connection))) as service,
            closing(memcached_store(addresses)) as store,
        ):
            service.add(ID, FIRST_PRICE)
            store.delete(KEY)  # left by an earlier act
            cache = ProductCache(CLUSTER, store, service)
            yield AuditedShop(service, store, cache, account, environment | {DATABASE: str(file)})


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _row(file: Path, id: str) -> Product:
    with closing(sqlite3.connect(file)) as connection:
        return Product(*connection.execute("SELECT * FROM products WHERE id = ?", (id,)).fetchone())
