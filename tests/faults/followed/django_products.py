"""The products as Django's ORM knows them. Import it once Django is set up."""

from typing import ClassVar

from django.db import models

from invalidator.app.django import track
from tests.faults.followed.account import HOOKED


class Product(models.Model):
    """The table that all writers share; it is not Django's to make."""

    id = models.IntegerField(primary_key=True)
    category = models.IntegerField()
    price = models.IntegerField()
    #: Given by a trigger, whatever is written here.
    change = models.BigIntegerField(null=True)
    objects: ClassVar["models.Manager[Product]"]

    class Meta:
        app_label = "followed"
        db_table = "products"
        managed = False


track(Product, HOOKED, "change")
