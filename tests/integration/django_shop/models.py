"""Categories, products that they own, and tags."""

from django.db import models

from invalidator.app.django import track


class Category(models.Model):
    name = models.TextField(default="")

    class Meta:
        app_label = "django_shop"


class Tag(models.Model):
    class Meta:
        app_label = "django_shop"


class Product(models.Model):
    price = models.DecimalField(max_digits=10, decimal_places=2)
    category = models.ForeignKey(Category, null=True, on_delete=models.CASCADE)
    main_tag = models.ForeignKey(Tag, null=True, on_delete=models.SET_NULL, related_name="main_of")
    tags = models.ManyToManyField(Tag)

    class Meta:
        app_label = "django_shop"


class Book(Product):
    pages = models.IntegerField()

    class Meta:
        app_label = "django_shop"


track(Product, "product_updated", "price", "category")
track(Product, "listing_changed", "category_id")
track(Product.tags.through, "tags_changed", "product_id")
