"""SQLAlchemy's ORM with the outbox: every product that a session writes is evicted, once its transaction is committed.

The events are appended after the flush, so after the change, which keeps them in the order of the commits. Statements
that bypass the session (bulk updates, other programs) append their events themselves, see outbox_shop.py.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, orm

from invalidator.app import Event, Outbox

outbox = Outbox(app_id="shop")


class Base(orm.DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "product"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    price: orm.Mapped[float]


@event.listens_for(orm.Session, "after_flush")
def evict_from_the_caches(session: orm.Session, _: Any) -> None:
    written = [row for row in (*session.new, *session.dirty, *session.deleted) if isinstance(row, Product)]
    for product in written:
        outbox.append(session.connection(), Event("product_updated", {"id": product.id, "price": product.price}))


def update(engine: sa.Engine, product: int, price: float) -> None:
    with orm.Session(engine) as session, session.begin():
        session.get_one(Product, product).price = price
