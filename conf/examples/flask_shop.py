"""Flask: read through the cache, and evict after the commit. FLASK_APP=flask_shop flask run

The customer is answered also while the broker is away: the event then waits in the outbox for `invalidator relay`.
"""

import os

import sqlalchemy as sa
from flask import Flask, request

from invalidator.app import Event, InvalidatorError, LookAsideCache, Outbox, Publisher

app = Flask(__name__)
engine = sa.create_engine(os.environ["DATABASE"])
outbox = Outbox(app_id="shop")
#: One for all threads; it connects at its first publish, so it may be made before a server forks.
publisher = Publisher(os.environ["BROKER_URL"], app_id="shop")
cache = LookAsideCache(os.environ["MEMCACHED"].split(","))


def load_price(product: int) -> float | None:
    with engine.connect() as connection:
        price: float | None = connection.scalar(sa.text("SELECT price FROM product WHERE id = :id"), {"id": product})
    return price


@app.get("/products/<int:product>")
def show(product: int) -> dict[str, float | None]:
    return {"price": cache.get_or_load(f"product:{product}", lambda: load_price(product), ttl=3600, negative_ttl=60)}


def publish(event: Event) -> None:
    """Publish an event of a committed change, or keep it in the outbox."""
    try:
        publisher.publish(event.type, event.fields)
    except InvalidatorError as error:
        app.logger.warning("kept in the outbox: %s", error)
        with engine.begin() as connection:
            outbox.append(connection, event)


@app.put("/products/<int:product>")
def update(product: int) -> tuple[str, int]:
    price = float(request.form["price"])
    with engine.begin() as connection:
        change = sa.text("UPDATE product SET price = :price WHERE id = :id")
        connection.execute(change, {"price": price, "id": product})
    publish(Event("product_updated", {"id": product, "price": price}))
    return "", 204
