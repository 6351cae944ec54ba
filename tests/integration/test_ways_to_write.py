"""The handbook's table of ways to write: each row is executed, beside the hooks of both ORMs and a real follower."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from django.db import connection
from sqlalchemy import orm

from invalidator.app import Outbox, track
from invalidator.follow import setup
from invalidator.operate.topology import declared
from invalidator.settings import FollowSettings, RuleSettings, Secret, Settings
from tests.integration.conftest import DJANGO_DATABASE
from tests.integration.follow.followed_shop import QUEUE, following
from tests.integration.shop import Publishing, publishing, settings_for
from tests.integration.test_outbox import with_driver
from tests.servers import Postgres
from tests.tracking_conformance import Base, Category, Product

HANDBOOK = Path(__file__).parents[2] / "conf" / "README.rst"
ROW = re.compile(
    r"((?:SQLAlchemy|Django|Any program, psql|PostgreSQL): .+?)  +(yes|no) +(yes|no) +(no|if your code does it)"
)
TABLE: dict[str, tuple[str, str, str]] = {
    write: (hook, follower, publisher) for write, hook, follower, publisher in ROW.findall(HANDBOOK.read_text())
}
TABLES = ["product", "django_shop_product"]
DJANGO_TABLES = "django_shop_product, django_shop_category, django_shop_tag, invalidator_outbox"


class Shop:
    """Both ORMs, and psql, on one database."""

    def __init__(self, models: Any, server: Postgres) -> None:
        self.models, self.server = models, server
        self.numbers = count(1_000_000)
        self.engine = sa.create_engine(with_driver(server.url(DJANGO_DATABASE)))

    def sql(self, statement: str) -> None:
        self.server.sql(statement, database=DJANGO_DATABASE)

    def in_session(self, write: Callable[[orm.Session], Any]) -> None:
        with orm.Session(self.engine) as session, session.begin():
            write(session)

    def waiting(self) -> int:
        with self.engine.connect() as connection:
            return Outbox().backlog(connection)[0]


def add_change_delete(session: orm.Session) -> None:
    product = session.get_one(Product, 1)
    product.price = 9.0
    session.add(Product(id=4, price=4.0))
    session.flush()
    session.delete(product)


def update_delete(session: orm.Session) -> None:
    session.execute(sa.update(Product).values(price=9.0))
    session.execute(sa.delete(Product).where(Product.id == 1))


def query_update_delete(session: orm.Session) -> None:
    session.query(Product).update({"price": 9.0})
    session.query(Product).filter(Product.id == 1).delete()


def save_delete(shop: Shop) -> None:
    product = shop.models.Product.objects.get(id=1)
    product.save()
    product.delete()


def update_delete_in_django(shop: Shop) -> None:
    shop.models.Product.objects.update(price=9)
    shop.models.Product.objects.filter(id=1).delete()


def bulk_create_update(shop: Shop) -> None:
    products = shop.models.Product.objects.bulk_create([shop.models.Product(id=5, price=5)])
    shop.models.Product.objects.bulk_update(products, ["price"])


def cascade_set_null(shop: Shop) -> None:
    shop.models.Category.objects.all().delete()
    shop.models.Tag.objects.all().delete()


def cursor_execute(_: Shop) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE django_shop_product SET price = 9")


WRITES: dict[str, Callable[[Shop], Any]] = {
    "SQLAlchemy: ``add``, a change, ``delete``": lambda shop: shop.in_session(add_change_delete),
    "SQLAlchemy: ``update()``, ``delete()``": lambda shop: shop.in_session(update_delete),
    "SQLAlchemy: ``insert()``": lambda shop: shop.in_session(
        lambda session: session.execute(sa.insert(Product), [{"id": 4, "price": 4.0}, {"id": 5, "price": 5.0}])
    ),
    "SQLAlchemy: ``Query.update``, ``Query.delete``": lambda shop: shop.in_session(query_update_delete),
    "SQLAlchemy: a relationship's cascade": lambda shop: shop.in_session(
        lambda session: session.delete(session.get_one(Category, 1))
    ),
    "SQLAlchemy: ``bulk_save_objects``": lambda shop: shop.in_session(
        lambda session: session.bulk_save_objects([Product(id=4, price=4.0)])
    ),
    "SQLAlchemy: ``connection.execute``": lambda shop: shop.in_session(
        lambda session: session.connection().execute(sa.update(Product).values(price=9.0))
    ),
    "SQLAlchemy: ``text``": lambda shop: shop.in_session(
        lambda session: session.execute(sa.text("UPDATE product SET price = 9"))
    ),
    "Django: ``save``, ``delete``": save_delete,
    "Django: ``QuerySet.update``, ``QuerySet.delete``": update_delete_in_django,
    "Django: ``bulk_create``, ``bulk_update``": bulk_create_update,
    "Django: CASCADE, SET_NULL": cascade_set_null,
    "Django: ``cursor.execute``, ``RunSQL``": cursor_execute,
    "Any program, psql: INSERT, UPDATE, DELETE": lambda shop: shop.sql("UPDATE product SET price = 9 WHERE id = 1"),
    "Any program, psql: COPY": lambda shop: shop.sql("COPY product (id, price) FROM PROGRAM 'printf 4\\\\t4'"),
    "PostgreSQL: a trigger": lambda shop: shop.sql("INSERT INTO stock VALUES ('eu', 1, 1)"),
    "PostgreSQL: ON DELETE CASCADE": lambda shop: shop.sql("DELETE FROM category"),
    "PostgreSQL: TRUNCATE": lambda shop: shop.sql("TRUNCATE product"),
}

#: A change of stock changes a price; a category takes its products with it.
BY_ITSELF = """
CREATE FUNCTION reprice() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN UPDATE product SET price = 9 WHERE id = NEW.product_id; RETURN NEW; END$$;
CREATE TRIGGER reprice AFTER INSERT ON stock FOR EACH ROW EXECUTE FUNCTION reprice();
ALTER TABLE product DROP CONSTRAINT product_category_id_fkey,
    ADD FOREIGN KEY (category_id) REFERENCES category ON DELETE CASCADE
"""


@pytest.fixture(scope="module")
def shop(django_project: Any, postgres: Postgres) -> Iterator[Shop]:
    """Make the tables of SQLAlchemy's models beside Django's, with one outbox for both."""
    shop = Shop(django_project, postgres)
    Base.metadata.create_all(shop.engine)
    shop.sql(BY_ITSELF)
    track(shop.engine, Product, "product_updated", "price")
    yield shop
    shop.sql(f"DROP TABLE stock, product, category; TRUNCATE {DJANGO_TABLES} CASCADE")
    shop.engine.dispose()


def fill(shop: Shop) -> None:
    """Store the same few rows as before each write, and empty the outbox."""
    shop.sql(
        f"TRUNCATE stock, product, category, {DJANGO_TABLES} CASCADE;"
        "INSERT INTO category VALUES (1); INSERT INTO product VALUES (1, 1, 'chair', 1), (2, 2, 'chair', NULL);"
        "INSERT INTO django_shop_category VALUES (1, ''); INSERT INTO django_shop_tag VALUES (1);"
        "INSERT INTO django_shop_product (id, price, category_id, main_tag_id) VALUES (1, 1, 1, NULL), (2, 2, NULL, 1)"
    )


@pytest.fixture
async def settings(shop: Shop, vhost: str) -> AsyncIterator[Settings]:
    """Make a slot for a follower of both products' tables, and a cluster's queue."""
    follow = FollowSettings(url=Secret(shop.server.url(DJANGO_DATABASE)), slot="ways", publication="ways")
    types = [f"{kind}:public.{table}" for table in TABLES for kind in ("changed", "truncated")]
    rules = [RuleSettings(on=type, evict=["products"]) for type in types]
    settings = msgspec.structs.replace(settings_for(vhost, {"c1": "127.0.0.1:11211"}), follow=follow, rule=rules)
    await declared(settings)
    await setup.create(settings)
    yield settings
    await setup.drop(settings)


async def take_all(bus: Publishing, shop: Shop) -> int:
    """Take events until that of a last write arrives, and return the number before it."""
    last = next(shop.numbers)
    shop.sql(f"INSERT INTO django_shop_product (id, price) VALUES ({last}, 0)")
    seen: list[bytes] = []
    async with asyncio.timeout(60):
        while not any(b'"id":%d,' % last in body for body in seen):
            seen += [message.body for message in await bus.take(QUEUE)]
    return len(seen) - 1


async def test_every_row_of_the_table_says_what_sees_the_write(shop: Shop, settings: Settings, vhost: str) -> None:
    found: dict[str, tuple[str, str]] = {}
    async with publishing(vhost) as bus, following(settings):
        for name, write in WRITES.items():
            fill(shop)
            await take_all(bus, shop)
            await asyncio.to_thread(in_thread, write, shop)
            hook = shop.waiting() > 0
            found[name] = yes_or_no(hook), yes_or_no(await take_all(bus, shop) > 0)
    assert {name: seen[:2] for name, seen in TABLE.items()} == found


def test_only_code_of_the_application_can_publish_after_its_commit() -> None:
    assert {name for name, seen in TABLE.items() if seen[2] == "no"} == {
        name
        for name in TABLE
        if name.startswith(("PostgreSQL", "Any program")) or "ascade" in name or "CASCADE" in name
    }


def yes_or_no(seen: bool) -> str:
    return "yes" if seen else "no"


def in_thread(write: Callable[[Shop], Any], shop: Shop) -> None:
    """Write in a thread: Django refuses to work in an event loop."""
    try:
        write(shop)
    finally:
        connection.close()
