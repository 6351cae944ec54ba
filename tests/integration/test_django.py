"""A real Django project on PostgreSQL: each way in which its ORM writes, the relay, and the cache backend."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from decimal import Decimal
from typing import Any

import pytest
from django.core.cache import CacheHandler
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.db.models import F

from invalidator.app import ConfigurationError
from tests.integration.conftest import DJANGO_DATABASE, MemcachedFactory
from tests.integration.shop import eventually, publishing, settings_for, working
from tests.integration.test_outbox import QUEUE, relay_settings, relaying, with_driver
from tests.servers import Postgres


@pytest.fixture
def shop(django_project: Any) -> Iterator[Any]:
    """Fill the shop: a category with two products, and one product without; then empty the outbox."""
    category = django_project.Category.objects.create(id=1)
    tag = django_project.Tag.objects.create(id=1)
    django_project.Product.objects.bulk_create(
        django_project.Product(
            id=id, price=id, category=category if id < 3 else None, main_tag=tag if id == 3 else None
        )
        for id in (1, 2, 3)
    )
    outbox().all().delete()
    yield django_project
    for model in (django_project.Book, django_project.Product, django_project.Category, django_project.Tag):
        model.objects.all().delete()
    outbox().all().delete()


def outbox() -> Any:
    from invalidator.app.django.models import OutboxEvent

    return OutboxEvent.objects


def waiting(type: str = "product_updated") -> list[tuple[int, str, int | None]]:
    """Return id, price and category of the events that wait."""
    found = [json.loads(bytes(event.body)) for event in outbox().filter(type=type)]
    return sorted((event["id"], event["price"], event["category_id"]) for event in found)


def save(shop: Any) -> None:
    product = shop.Product.objects.get(id=1)
    product.price = Decimal("9.5")
    product.save()


def save_an_expression(shop: Any) -> None:
    product = shop.Product.objects.get(id=1)
    product.price = F("price") + 1
    product.save(update_fields=["price"])


def update_or_create(shop: Any) -> None:
    shop.Product.objects.update_or_create(id=1, defaults={"price": 9})


def bulk_update(shop: Any) -> None:
    products = list(shop.Product.objects.filter(id__gte=2))
    for product in products:
        product.price *= 2
    assert 2 == shop.Product.objects.bulk_update(products, ["price"])


def bulk_create(shop: Any) -> None:
    made = shop.Product.objects.bulk_create(shop.Product(id=id, price=id) for id in (4, 5))
    assert [4, 5] == [product.pk for product in made]


def bulk_create_ignoring_conflicts(shop: Any) -> None:
    for new in ([3], [4], [3, 5]):
        shop.Product.objects.bulk_create([shop.Product(id=id, price=id) for id in new], ignore_conflicts=True)


def bulk_create_updating_conflicts(shop: Any) -> None:
    new = [shop.Product(id=3, price=9), shop.Product(id=4, price=4)]
    shop.Product.objects.bulk_create(new, update_conflicts=True, unique_fields=["id"], update_fields=["price"])


def update(shop: Any) -> None:
    assert 2 == shop.Product.objects.filter(id__gte=2).update(price=F("price") * 2)


def update_across_a_join(shop: Any) -> None:
    assert 2 == shop.Product.objects.filter(category__name="").update(price=7)


def delete(shop: Any) -> None:
    assert (1, {"django_shop.Product": 1}) == shop.Product.objects.get(id=1).delete()


def delete_many(shop: Any) -> None:
    assert 2 == shop.Product.objects.filter(id__gte=2).delete()[0]


def raw_delete(shop: Any) -> None:
    shop.Product.objects.filter(id__gte=2)._raw_delete("default")


def cascade(shop: Any) -> None:
    shop.Category.objects.all().delete()


def set_null(shop: Any) -> None:
    shop.Tag.objects.get(id=1).delete()


def clear_by_the_other_side(shop: Any) -> None:
    shop.Category.objects.get(id=1).product_set.clear()


def save_a_child(shop: Any) -> None:
    book = shop.Book.objects.create(id=4, price=4, pages=100)
    book.price = 5
    book.save()
    shop.Book.objects.update(price=6, pages=101)


DOUBLED = [(2, "4.00", 1), (3, "6.00", None)]
#: A way to write -> the events of it.
WAYS: dict[Callable[[Any], None], list[tuple[int, str, int | None]]] = {
    save: [(1, "9.50", 1)],
    save_an_expression: [(1, "2.00", 1)],
    update_or_create: [(1, "9.00", 1)],
    bulk_update: DOUBLED,
    bulk_create: [(4, "4.00", None), (5, "5.00", None)],
    bulk_create_ignoring_conflicts: [(4, "4.00", None), (5, "5.00", None)],
    bulk_create_updating_conflicts: [(3, "9.00", None), (4, "4.00", None)],
    update: DOUBLED,
    update_across_a_join: [(1, "7.00", 1), (2, "7.00", 1)],
    delete: [(1, "1.00", 1)],
    delete_many: [(2, "2.00", 1), (3, "3.00", None)],
    raw_delete: [(2, "2.00", 1), (3, "3.00", None)],
    cascade: [(1, "1.00", 1), (2, "2.00", 1)],
    set_null: [(3, "3.00", None)],
    clear_by_the_other_side: [(1, "1.00", None), (2, "2.00", None)],
    save_a_child: [(4, "4.00", None), (4, "5.00", None), (4, "6.00", None)],
}


@pytest.mark.parametrize("write", WAYS)
def test_every_way_in_which_the_orm_writes_leaves_an_event_of_each_row(write: Callable[[Any], None], shop: Any) -> None:
    write(shop)
    assert WAYS[write] == waiting()
    assert {("shop", "product_updated"), ("shop", "listing_changed")} <= set(outbox().values_list("app_id", "type"))


def test_a_new_object_has_its_key_and_so_has_its_event(shop: Any) -> None:
    product = shop.Product.objects.create(price=Decimal("9.50"))
    assert [(product.pk, "9.50", None)] == waiting()
    assert [str(product.pk)] == list(outbox().filter(type="product_updated").values_list("entity", flat=True))


@pytest.mark.parametrize("ignoring", [False, True])
def test_new_objects_that_the_database_gives_ids_have_events_with_these(ignoring: bool, shop: Any) -> None:
    new = [shop.Product(price=4), shop.Product(price=5)]
    shop.Product.objects.bulk_create(new, ignore_conflicts=ignoring)
    ids = shop.Product.objects.filter(id__gte=1000).order_by("id").values_list("id", flat=True)
    assert list(zip(ids, ["4.00", "5.00"], [None, None], strict=True)) == waiting()


def test_a_many_to_many_relation_is_tracked_by_its_table(shop: Any) -> None:
    shop.Product.objects.get(id=1).tags.set([shop.Tag.objects.get(id=1)])
    (event,) = outbox().filter(type="tags_changed")
    assert 1 == json.loads(bytes(event.body))["product_id"]


def test_events_are_rolled_back_with_the_transaction_or_the_savepoint(shop: Any) -> None:
    def fail() -> None:
        with transaction.atomic():
            update(shop)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with transaction.atomic():
        with pytest.raises(ZeroDivisionError):
            fail()
        delete(shop)
    assert [(1, "1.00", 1)] == waiting()


def test_a_write_whose_event_cannot_be_stored_is_not_committed_either(shop: Any) -> None:
    """Without `atomic` around it, too."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE invalidator_outbox ADD CONSTRAINT closed CHECK (id < 0) NOT VALID")
    try:
        with pytest.raises(IntegrityError):
            update(shop)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE invalidator_outbox DROP CONSTRAINT closed")
    assert [2, 3] == [product.price for product in shop.Product.objects.filter(id__gte=2).order_by("id")]


def test_what_is_not_tracked_leaves_nothing(shop: Any) -> None:
    shop.Category.objects.update(name="garden")
    list(shop.Product.objects.all())
    assert 0 == outbox().count()


def test_a_field_that_the_table_does_not_have_is_refused(django_project: Any) -> None:
    from invalidator.app.django import track

    with pytest.raises(ConfigurationError, match='Book has no field "price" in django_shop_book'):
        track(django_project.Book, "book_updated", "price")


def test_a_database_without_returning_is_refused_before_anything_is_written(
    shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "vendor", "mysql")
    with pytest.raises(ConfigurationError, match="django_shop_product is tracked, but PostgreSQL has no RETURNING"):
        update(shop)


def test_the_migration_is_all_that_the_models_need(django_project: Any) -> None:
    call_command("makemigrations", "invalidator", check=True, dry_run=True, verbosity=0)


async def test_the_relay_drains_the_table(shop: Any, vhost: str, postgres: Postgres) -> None:
    await asyncio.to_thread(in_thread, lambda: update(shop))
    async with working(settings_for(vhost, {"c1": "127.0.0.1:11211"})):
        pass
    async with (
        publishing(vhost) as queues,
        relaying(relay_settings(vhost, with_driver(postgres.url(DJANGO_DATABASE)))),
    ):
        published: list[dict[str, Any]] = []
        while len(published) < 4:
            published += [json.loads(message.body) for message in await queues.take(QUEUE)]
        counted = lambda: in_thread(lambda: outbox().count())  # noqa: E731
        while await asyncio.to_thread(counted):
            await asyncio.sleep(0.01)
    assert {2: "4.00", 3: "6.00"} == {one["id"]: one["price"] for one in published if "price" in one}


def in_thread(work: Callable[[], Any]) -> Any:
    """Work in a thread, whose connection ends with it."""
    try:
        return work()
    finally:
        connection.close()


@pytest.fixture
def cache(django_project: Any, memcached: MemcachedFactory) -> Iterator[Any]:
    backend = {"BACKEND": "invalidator.app.django.cache.LookAsideBackend", "LOCATION": [memcached().address]}
    made = CacheHandler({"default": backend | {"TIMEOUT": 60}})["default"]
    yield made
    made.close()


def test_the_backend_answers_as_django_expects(cache: Any) -> None:
    cache.set("a", {"price": 1})
    cache.set_many({"b": [1, 2], "n": None})
    assert ({"price": 1}, {"a": {"price": 1}, "b": [1, 2], "n": None}) == (cache.get("a"), cache.get_many("abnx"))
    assert (None, "default") == (cache.get("n", "default"), cache.get("x", "default"))
    assert (False, True) == (cache.add("a", 2), cache.add("c", 2))
    assert (3, True, False) == (cache.incr("c"), cache.delete("c"), cache.delete("c"))
    assert "loaded" == cache.get_or_set("d", lambda: "loaded")
    assert "loaded" == cache.get_or_set("d", "not this") == cache.get("d")
    assert [7, 8] == [cache.get_or_set("e", value, timeout=0) for value in (7, 8)]
    assert "forever" == cache.get_or_set("f", "forever", timeout=None)
    cache.clear()
    assert {} == cache.get_many("abcdef")


def test_the_backend_compares_reads_only_with_a_source_of_its_own(django_project: Any) -> None:
    backend = {"BACKEND": "invalidator.app.django.cache.LookAsideBackend", "LOCATION": ["127.0.0.1:1"]}
    for source in (lambda key: None), None:
        handler = CacheHandler({"default": backend | {"OPTIONS": {"audit": 0.001, "audit_source": source}}})
        with nullcontext() if source else pytest.raises(ImproperlyConfigured, match="audit_source"):
            assert handler["default"]


def test_a_value_evicted_while_it_is_loaded_is_returned_and_not_stored(cache: Any) -> None:
    def load() -> str:
        assert "nobody sees the placeholder" == cache.get("product:1", "nobody sees the placeholder")
        assert {} == cache.get_many(["product:1"])
        cache.delete("product:1")
        return "old"

    assert "old" == cache.get_or_set("product:1", load)
    assert "new" == cache.get_or_set("product:1", lambda: "new")


async def test_its_asyncio_twin_follows_the_same_protocol(cache: Any) -> None:
    def load() -> str:
        cache.delete("product:1")
        return "old"

    assert ["old", "new"] == [await cache.aget_or_set("product:1", load), await cache.aget_or_set("product:1", "new")]


async def test_a_worker_evicts_the_backends_keys(cache: Any, vhost: str) -> None:
    address = cache._servers[0]
    async with working(settings_for(vhost, {"c1": address}, memcached={"prefix": ":1:"})), publishing(vhost) as queues:
        await asyncio.to_thread(cache.get_or_set, "product:7", "old")
        await queues.update(7)
        await eventually(lambda: cache.get("product:7") is None)
