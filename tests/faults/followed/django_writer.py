"""A writer that uses Django's ORM, whose hooks append events to the outbox, and at times SQL that no hook sees."""

from typing import Any

import django
import psycopg
from django.conf import settings
from django.core.management import call_command
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import F

from tests.faults.followed.writers import SIZE, Way, Writer
from tests.servers import Postgres

#: The names under which the database's history keeps what the ORM wrote, and what went past it.
ORM, PAST_ORM = "orm", "past-orm"


def set_up_django(server: Postgres, database: str) -> None:
    """Connect Django to the database, once for this process, and make its outbox."""
    host, port = server.address.split(":")
    place: dict[str, Any] = {"ENGINE": "django.db.backends.postgresql", "NAME": database, "USER": "postgres"}
    place |= {"HOST": host, "PORT": port, "OPTIONS": {"application_name": ORM}}
    settings.configure(DATABASES={"default": place}, INSTALLED_APPS=["invalidator.app.django"], USE_TZ=True)
    django.setup()
    call_command("migrate", verbosity=0)
    connection.close()


class DjangoWriter(Writer):
    """Writes as a Django project does, in `atomic` blocks."""

    def _kinds(self) -> list[Way]:
        ways = [self._save, self._update, self._bulk_update, self._delete, self._delete_one, self._past_the_orm]
        return [self._refilled(way) for way in ways]

    def _refilled(self, way: Way) -> Way:
        """Return a way that fills an empty category first, with `bulk_create`."""

        def in_a_transaction(category: int, /, *, is_kept: bool) -> None:
            try:
                self._refill(category)
                with transaction.atomic():
                    way(category, is_kept=is_kept)
                    transaction.set_rollback(not is_kept)
            except (OperationalError, InterfaceError) as error:
                raise psycopg.OperationalError from error
            self.rolled_back += not is_kept

        return in_a_transaction

    def _refill(self, category: int) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("INSERT INTO categories VALUES (%s, 'c') ON CONFLICT DO NOTHING", [category])
            there = set(self._products(category).values_list("id", flat=True))
            ids = range(category * SIZE, (category + 1) * SIZE)
            model = self._products(category).model
            model.objects.bulk_create(model(id=id, category=category, price=1) for id in ids if id not in there)

    def _save(self, category: int, /, *, is_kept: bool) -> None:
        for product in self._products(category)[:3]:
            product.price += 1
            product.save()

    def _update(self, category: int, /, *, is_kept: bool) -> None:
        self._products(category).update(price=F("price") + 1)

    def _bulk_update(self, category: int, /, *, is_kept: bool) -> None:
        found = list(self._products(category))
        for product in found:
            product.price += 1
        self._products(category).bulk_update(found, ["price"])

    def _delete(self, category: int, /, *, is_kept: bool) -> None:
        self._products(category).delete()

    def _delete_one(self, category: int, /, *, is_kept: bool) -> None:
        if found := self._products(category).first():
            found.delete()

    def _past_the_orm(self, category: int, /, *, is_kept: bool) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('application_name', %s, true)", [PAST_ORM])
            cursor.execute("UPDATE products SET price = price + 1 WHERE category = %s", [category])

    def _products(self, category: int) -> Any:
        from tests.faults.followed.django_products import Product

        return Product.objects.filter(category=category)

    def _disconnect(self) -> None:
        super()._disconnect()
        connection.close()
