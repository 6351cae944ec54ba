"""Django: saving a product evicts it from the caches, once the transaction is committed.

The customer is answered also while the broker is away: the event then waits in the outbox for `invalidator relay`.
"""

import logging
import os
from functools import partial
from typing import Any

import sqlalchemy as sa
from django.db import models, transaction
from django.db.models.signals import post_save
from django.dispatch import receiver

from invalidator.app import Event, InvalidatorError, Outbox, Publisher

#: Of the same database as in Django's settings. It connects only when an event has to be kept.
engine = sa.create_engine(os.environ["DATABASE"])
outbox = Outbox(app_id="shop")
publisher = Publisher(os.environ["BROKER_URL"], app_id="shop")
log = logging.getLogger(__name__)


class Product(models.Model):
    price = models.FloatField()

    class Meta:
        app_label = "shop"


def publish(event: Event) -> None:
    """Publish an event of a committed change, or keep it in the outbox."""
    try:
        publisher.publish(event.type, event.fields)
    except InvalidatorError as error:
        log.warning("kept in the outbox: %s", error)
        with engine.begin() as connection:
            outbox.append(connection, event)


@receiver(post_save, sender=Product)
def evict_from_the_caches(instance: Product, **_: Any) -> None:
    event = Event("product_updated", {"id": instance.pk, "price": instance.price})
    transaction.on_commit(partial(publish, event))
