"""Django: saving a product evicts it from the caches, once the transaction is committed."""

import os
from typing import Any

from django.db import models, transaction
from django.db.models.signals import post_save
from django.dispatch import receiver

from invalidator.app import Publisher

publisher = Publisher(os.environ["BROKER_URL"], app_id="shop")


class Product(models.Model):
    price = models.FloatField()

    class Meta:
        app_label = "shop"


@receiver(post_save, sender=Product)
def evict_from_the_caches(instance: Product, **_: Any) -> None:
    transaction.on_commit(lambda: publisher.publish("product_updated", {"id": instance.pk, "price": instance.price}))
