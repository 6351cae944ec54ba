"""The outbox: the event is committed with the change, or rolled back with it. `invalidator relay` publishes it.

A crash after the commit loses nothing, and the shop keeps selling while there is no broker.
"""

import sqlalchemy as sa

from invalidator.app import Event, Outbox

outbox = Outbox(app_id="shop")
products = sa.Table(
    "product", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("price", sa.Float)
)


def update(engine: sa.Engine, product: int, price: float) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(products).where(products.c.id == product).values(price=price))
        outbox.append(connection, Event("product_updated", {"id": product, "price": price}))
