"""For Django: an outbox in Django's own transactions, and a cache backend. The app is optional.

    INSTALLED_APPS = [..., "invalidator.app.django"]         # then: manage.py migrate

    track(Product, "product_updated", "price")               # in an app's models.py, below the model

The relay drains the table ``invalidator_outbox`` as it drains an `Outbox`.
"""

from invalidator.app.django.tracking import track as track
